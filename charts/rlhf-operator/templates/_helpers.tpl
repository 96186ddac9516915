{{/* Names of everything the chart installs. NetworkPolicies of jobs find the operator by app.kubernetes.io/name, which never changes. */}}
{{- define "rlhf.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "rlhf.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "rlhf.name" .) -}}
{{- end -}}

{{- define "rlhf.selector" -}}
app.kubernetes.io/name: rlhf-operator
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "rlhf.labels" -}}
{{ include "rlhf.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "rlhf.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Rights in every namespace that is served. docs/security.md explains each line; a test compares it with that table. */}}
{{- define "rlhf.namespacedRules" -}}
- apiGroups: [rlhf.dev]
  resources: [rlhfjobs]
  verbs: [get, list, watch, delete]
- apiGroups: [rlhf.dev]
  resources: [rlhfjobs/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list]
- apiGroups: [""]
  resources: [services, persistentvolumeclaims]
  verbs: [get, create]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create]
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [get, create]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch, list]
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
{{- end -}}
