"""From the models to what the API server needs: custom resource definitions and admission policies, rendered into `crds/`."""
