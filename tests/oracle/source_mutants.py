"""Bugs of one line each, put into a copy of the trainer: the tests that are named beside them must fail (`mutation.py` runs them).

Mutants of pure functions are functions, in `mutants.py`. Here are those that need a stage, a checkpoint or a process to be seen.
`old` stands exactly once in its file; a test of tier `unit` says so when the code has moved on.
"""

from __future__ import annotations

from dataclasses import dataclass

UNIT, LOCAL, ORACLE = "tests/unit/trainer/", "tests/local/", "tests/oracle/"
TRAINING, LOOP = UNIT + "stages/test_training.py::", UNIT + "test_loop.py::"
CHECKPOINT, TOKENIZE = UNIT + "state/test_checkpoint.py::", UNIT + "data/test_tokenize.py::"


@dataclass(frozen=True, slots=True)
class SourceMutant:
    """One line of the trainer, broken."""

    rule: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def _mutant(rule: str, name: str, file: str, old: str, new: str, *tests: str) -> SourceMutant:
    return SourceMutant(rule, name, file, old, new, tests)


SFT_AND_REWARD = (
    _mutant("F2", "short windows are divided by a full one", "stages/sft.py",
            "num_labels = int(world.sum_number(sum(batch.num_labels for batch in batches)))",
            "num_labels = int(world.sum_number(sum(batch.num_labels for batch in batches)) * self.config.global_batch_size / len(ids))",
            TRAINING + "test_a_short_last_window_is_divided_by_its_own_labels"),
    _mutant("F3", "cosine returns to the peak", "schedule.py", "if step >= last:", "if False:",
            UNIT + "test_schedule.py::test_falls_to_the_minimum_at_the_last_step_and_stays"),
    _mutant("F4", "checkpoints at the end only", "loop.py", "self.step % policy.every_steps == 0", "False",
            LOOP + "test_saves_every_so_many_steps_and_at_the_end"),
    _mutant("F5", "a tokenizer may be larger than the model", "data/tokenizer.py", "if tokenizer.get_vocab_size() > vocab_size:", "if False:",
            UNIT + "data/test_tokenizer.py::test_a_model_that_cannot_be_used_is_refused"),
    _mutant("F6", "answers without an end are fine", "report/health.py", '_below("eos_fraction", 0.5, 0.5,', '_below("eos_fraction", 0, 0,',
            UNIT + "report/test_health.py::test_sft_answers_that_do_not_end"),
    _mutant("R2", "a head of unit deviation", "models/heads.py", " / math.sqrt(weight.shape[1] + 1))", ")",
            UNIT + "models/test_heads.py::test_a_new_head_has_the_published_deviation_and_comes_from_the_seed"),
    _mutant("R4", "dropout stays on in attention", "models/heads.py", "setattr(module, name, 0.0)", "setattr(module, name, value)",
            UNIT + "models/test_heads.py::test_without_dropout_two_forwards_in_training_mode_are_equal"),
    _mutant("R4", "rejected before chosen", "data/collate.py",
            "_pad([row.chosen_ids for row in rows] + [row.rejected_ids for row in rows], pad_id)",
            "_pad([row.rejected_ids for row in rows] + [row.chosen_ids for row in rows], pad_id)",
            UNIT + "data/test_collate.py::test_pairs_are_one_batch_chosen_first"),
    _mutant("R5", "the mean is not in units of the deviation", "stages/reward.py", '"mean": mean * scale}', '"mean": mean}',
            TRAINING + "test_the_reward_model_is_normalised_on_disk"),
    _mutant("R5", "the mean of an earlier model is forgotten", "stages/reward.py", "raw = 1.0, module.mean, {}", "raw = 1.0, 0.0, {}",
            TRAINING + "test_a_reward_model_of_a_reward_model_is_normalised_too"),
    _mutant("R6", "ties are right", "stages/reward.py", "0.5 * float((chosen == rejected).sum())", "1.0 * float((chosen == rejected).sum())",
            UNIT + "stages/test_parts.py::test_pair_metrics_count_ties_half_and_tell_sources_apart"),
    _mutant("R7", "equal pairs are kept", "data/tokenize.py", "is_same = np.array_equal(good[cut], bad[cut])", "is_same = False",
            TOKENIZE + "test_pairs_that_cannot_be_used_are_dropped", TOKENIZE + "test_a_pair_that_the_template_makes_equal_is_dropped"),
)  # fmt: skip

PPO = (
    _mutant("P6", "dropout stays on in attention", "models/heads.py", "setattr(module, name, 0.0)", "setattr(module, name, value)",
            UNIT + "models/test_heads.py::test_without_dropout_two_forwards_in_training_mode_are_equal"),
    _mutant("P8", "the penalty is clipped away", "stages/experience.py",
            "scores = rewards.clip_scores(scores, config.reward_clip)\n        batch.scores = rewards.penalize_missing_stop("
            "scores, batch.has_stop, config.missing_eos_penalty)",
            "scores = rewards.penalize_missing_stop(scores, batch.has_stop, config.missing_eos_penalty)\n        "
            "batch.scores = rewards.clip_scores(scores, config.reward_clip)",
            UNIT + "stages/test_experience.py::test_scores_are_normalised_then_clipped_then_penalised"),
    _mutant("P20", "clip after penalty", "stages/experience.py",
            "scores = rewards.clip_scores(scores, config.reward_clip)\n        batch.scores = rewards.penalize_missing_stop("
            "scores, batch.has_stop, config.missing_eos_penalty)",
            "scores = rewards.penalize_missing_stop(scores, batch.has_stop, config.missing_eos_penalty)\n        "
            "batch.scores = rewards.clip_scores(scores, config.reward_clip)",
            UNIT + "stages/test_experience.py::test_scores_are_normalised_then_clipped_then_penalised"),
    _mutant("P9", "a checkpoint of other inputs is accepted", "stages/facts.py", '        if changed:', "        if False:",
            UNIT + "stages/test_parts.py::test_facts_survive_a_resume_and_refuse_other_inputs"),
    _mutant("P9", "the adapters stay on in the reference", "models/adapters.py", "layer.enable_adapters(False)", "layer.enable_adapters(True)",
            UNIT + "models/test_adapters.py::test_adapters_off_is_the_base_model_bit_for_bit"),
    _mutant("P10", "the critic starts from nothing", "stages/ppo_models.py",
            'head = "saved" if setup.is_score_directory(critic_source) else "zero"', 'head = "zero"',
            TRAINING + "test_the_critic_starts_as_the_reward_model"),
    _mutant("P15", "a short minibatch is no step", "stages/ppo_models.py", "-(-sizes[i % len(sizes)] // config.minibatch_size)",
            "(sizes[i % len(sizes)] // config.minibatch_size)", UNIT + "stages/test_parts.py::test_optimizer_steps_of_policy_and_critic"),
    _mutant("P16", "no warm-up", "stages/ppo_update.py", "is_warm = loop.step >= self.config.critic_warmup_steps", "is_warm = True",
            TRAINING + "test_ppo_starts_where_its_papers_say"),
    _mutant("P17", "ptx without its coefficient", "stages/ppo_update.py", "return config.ptx_coefficient * loss", "return loss",
            TRAINING + "test_ptx_adds_its_share_of_the_sft_loss"),
    _mutant("P17", "the ptx cursor is not saved", "stages/ppo_update.py", 'self.parts["ptx_cursor"] = self.ptx_cursor', "pass",
            TRAINING + "test_a_stopped_stage_resumes_to_the_same_bits[ppo]"),
    _mutant("P18", "the average forgets fast", "stages/ema.py", "1.0 - self.decay)", "self.decay)",
            UNIT + "stages/test_parts.py::test_an_average_is_the_closed_form_after_k_steps"),
    _mutant("P19", "a non-finite step is taken", "strategy/masters.py", "if is_finite:", "if True:",
            UNIT + "strategy/test_masters.py::test_non_finite_gradient_changes_nothing_but_the_schedule"),
    _mutant("P19", "skipped steps are never too many", "loop.py", "if trained.num_skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:", "if False:",
            LOOP + "test_three_non_finite_steps_in_a_row_diverge"),
    _mutant("P19", "NaN is below every limit", "stages/ppo_rollout.py", "if not math.isfinite(kl_mean):", "if False:",
            UNIT + "stages/test_ppo_rollout.py::test_diverged"),
    _mutant("P21", "eps of the job is not used", "stages/setup.py", "eps=run.config.optimizer.eps, ", "",
            UNIT + "stages/test_parts.py::test_adam_has_the_numbers_of_the_job"),
    _mutant("G3", "a mismatch is never reported", "stages/ppo_rollout.py", "if problem is not None:", "if False:",
            TRAINING + "test_a_sampling_mismatch_is_reported_and_two_precisions_are_none"),
    _mutant("G8", "the cache has no limit", "rollout/limits.py", "return max(1, CACHE_BYTES //", "return max(1, 2**62 //",
            UNIT + "rollout/test_limits.py::test_rows_that_do_not_fit_the_cache_wait"),
    _mutant("G8", "evaluations have no limit", "stages/evaluate.py", "max_rows=min(BATCH_ROWS, ", "max_rows=max(BATCH_ROWS, ",
            UNIT + "stages/test_evaluate.py::test_rows_that_do_not_fit_the_cache_wait_and_answer_the_same"),
)  # fmt: skip

STATE = (
    _mutant("C1", "generators are not restored", "loop.py", "rng.restore(found.rng()[world.rank])", "pass",
            LOOP + "test_resume_after_a_kill_at_any_step_is_exact"),
    _mutant("C1", "counters are not restored", "loop.py", "part.restore(state[\"parts\"][name])", "pass",
            LOOP + "test_resume_after_a_kill_at_any_step_is_exact"),
    _mutant("C2", "LATEST is not written", "state/checkpoint.py",
            'manifest.write_atomically(run.checkpoints / "LATEST", json.dumps(ref.to_wire()).encode())', "pass",
            CHECKPOINT + "test_latest_is_a_hint_to_the_newest"),
    _mutant("C3", "files are written in place", "state/manifest.py",
            'temporary = path.with_name(f".{path.name}.{os.getpid()}")', "temporary = path",
            UNIT + "state/test_manifest.py::test_atomic_write_leaves_the_old_file_when_it_fails"),
    _mutant("C4", "fallback without verification", "state/checkpoint.py", "manifest.verify(directory)", "manifest.read(directory)",
            CHECKPOINT + "test_corrupt_checkpoint_is_skipped_with_its_reason",
            LOOP + "test_a_corrupt_checkpoint_is_an_event_and_the_older_one_is_used"),
    _mutant("C5", "Adam's step count is not restored", "strategy/masters.py", "torch.tensor(float(trained.num_applied),", "torch.tensor(1.0,",
            UNIT + "strategy/test_masters.py::test_resume_is_exact", LOOP + "test_resume_after_a_kill_at_any_step_is_exact"),
    _mutant("C5", "masters are rebuilt from the weights", "strategy/masters.py", 'master.copy_(read(f"weight/{name}"))',
            'master.copy_(read(f"weight/{name}").bfloat16())', UNIT + "strategy/test_masters.py::test_resume_is_exact"),
    _mutant("C7", "a stop request loses the step", "loop.py", "self.save(is_urgent=wish == _STOP or is_last)", "pass",
            LOOP + "test_stop_request_saves_and_ends_preempted"),
    _mutant("C7", "a slow save is not reported", "loop.py", "if seconds > grace:", "if False:",
            LOOP + "test_a_save_that_outlasts_the_grace_period_is_reported"),
    _mutant("C8", "the newest is removed", "state/checkpoint.py", "if directory not in complete[:keep]:", "if directory not in complete[1:keep]:",
            CHECKPOINT + "test_only_the_newest_complete_ones_are_kept"),
    _mutant("C9", "tensors are not copied", "state/writer.py", "copies.append((name, held.copy_(tensor.detach())))",
            "copies.append((name, tensor.detach()))", UNIT + "state/test_writer.py::test_training_during_the_write_does_not_change_the_file"),
    _mutant("C10", "missing steps are a success", "loop.py", "if self.step != self.total_steps:", "if False:",
            LOOP + "test_missing_steps_are_never_a_success"),
    _mutant("C10", "missing rows are a success", "loop.py", "if isinstance(cursor, Cursor) and cursor", "if False and cursor",
            LOOP + "test_rows_that_were_passed_over_are_never_a_success"),
    _mutant("C11", "half a checkpoint stays", "state/checkpoint.py",
            "except OSError as error:\n        shutil.rmtree(directory, ignore_errors=True)", "except OSError as error:",
            CHECKPOINT + "test_full_disk_removes_the_incomplete_one_and_keeps_the_older"),
)  # fmt: skip

DATA = (
    _mutant("D1", "unknown roles are taken", "data/formats.py", "if known not in ROLES:", "if False:",
            UNIT + "data/test_formats.py::test_a_malformed_row_is_named"),
    _mutant("D2", "the tokenizer adds its BOS too", "data/tokenizer.py", "add_special_tokens=False)", "add_special_tokens=True)",
            TOKENIZE + "test_a_row_has_exactly_one_bos_although_the_tokenizer_would_add_another"),
    _mutant("D3", "spans end before the end token", "data/tokenize.py", "(starts < end)", "(starts < end - 4)",
            TOKENIZE + "test_labels_are_the_answers_and_their_end_tokens_in_fifty_random_chats"),
    _mutant("D3", "the answer is searched by content", "data/tokenize.py",
            "found.append((np.array(encoding.ids, dtype=np.int32), inside(starts, own_spans)))",
            "own_spans = [(text.find(text[a:b]), text.find(text[a:b]) + b - a) for a, b in own_spans]\n"
            "            found.append((np.array(encoding.ids, dtype=np.int32), inside(starts, own_spans)))",
            TOKENIZE + "test_labels_are_the_answers_and_their_end_tokens_in_fifty_random_chats"),
    _mutant("D4", "rows need no end", "data/dataset.py", "self._check_stop(train[:_STOP_CHECK_ROWS], where)", "pass",
            UNIT + "data/test_prepare.py::test_answers_that_are_all_cut_teach_no_end"),
    _mutant("D5", "the mask is read off the ids", "data/collate.py", "attention_mask[i, here] = 1", "attention_mask[i] = input_ids[i] != pad_id",
            UNIT + "data/test_collate.py::test_rows_are_padded_on_the_right"),
    _mutant("D6", "any share may be dropped", "data/dataset.py", "if statistics.drop_fraction > request.max_drop_fraction:", "if False:",
            UNIT + "data/test_prepare.py::test_rows_that_cannot_be_used_end_the_stage"),
    _mutant("D8", "windows overlap by a row", "data/order.py", "self.consumed += len(ids)", "self.consumed += max(1, len(ids) - 1)",
            UNIT + "data/test_order.py::test_every_epoch_uses_every_row_once_in_windows_of_one_size"),
    _mutant("D8", "shares in blocks", "data/order.py", "return ids[rank::world_size]", "return ids[rank * (len(ids) // world_size) :]",
            UNIT + "data/test_order.py::test_workers_share_a_window_without_loss_or_overlap"),
    _mutant("D8", "every epoch in one order", "data/order.py", "np.array([seed, epoch], dtype=np.uint64)", "np.array([seed, 0], dtype=np.uint64)",
            UNIT + "data/test_order.py::test_epochs_and_seeds_differ"),
    _mutant("D9", "settings are no part of the name", "data/dataset.py", "settings], sort_keys=True)", "{}], sort_keys=True)",
            UNIT + "data/test_prepare.py::test_other_settings_are_another_dataset"),
    _mutant("D10", "the split follows the place of a row", "data/dataset.py", "return word < fraction * 2.0**64",
            "is_evaluation.__dict__.setdefault('n', [0])[0] += 1; return is_evaluation.n[0] % 5 == 0",
            UNIT + "data/test_prepare.py::test_the_evaluation_split_follows_the_row_and_not_its_place"),
    _mutant("D10", "a test split may be the training data", "data/dataset.py", "return bool(found) and not set(used) & set(found)",
            "return bool(found)", UNIT + "data/test_dataset.py::test_what_is_trained_on_is_never_held_out"),
    _mutant("D10", "small datasets are not measured", "data/dataset.py", "if request.eval_fraction and not evaluation:", "if False:",
            UNIT + "data/test_prepare.py::test_at_least_one_row_is_held_out_of_a_small_dataset"),
)  # fmt: skip

MACHINERY = (
    _mutant("T6", "bf16 gradients are not clipped", "strategy/masters.py", "if max_norm > 0:", "if False:",
            UNIT + "strategy/test_masters.py::test_norm_is_reported_before_clipping"),
    _mutant("T7", "nothing is refused", "strategy/select.py", "if refusals := find_unsupported(name, features):", "if refusals := []:",
            UNIT + "strategy/test_select.py::test_refused_with_the_field_and_a_way_out"),
    _mutant("T8", "the choice of optimizer is not stored", "strategy/masters.py", 'optimizer_choice="torch AdamW, fp32 masters"',
            'optimizer_choice=""', LOOP + "test_state_names_what_it_ran_on"),
    _mutant("T9", "masters in bf16", "strategy/masters.py", "return parameter.detach().float()", "return parameter.detach().clone()",
            UNIT + "strategy/test_masters.py::test_small_updates_add_up_in_the_masters"),
    _mutant("L1", "exit codes of the agent", "launch_gang.py", "return codes or dict.fromkeys(range(place.num_local), 0)",
            "return dict.fromkeys(range(place.num_local), int(bool(any(codes.values()))))",
            LOCAL + "test_launch.py::test_exit_codes_of_a_gang_arrive_unchanged"),
    _mutant("L2", "the first report is to blame", "launch_ending.py", "return 2, ending.time_seconds", "return 0, ending.time_seconds",
            UNIT + "launch/test_ending.py::test_who_is_to_blame"),
    _mutant("L3", "the default close timeout", "launch_gang.py", "close(context, death_sig, grace_seconds if is_stop else _PEER_SECONDS)",
            "close(context, death_sig, _PEER_SECONDS)",
            LOCAL + "test_launch.py::test_sigterm_to_a_gang_lets_the_first_worker_finish_its_save"),
    _mutant("L4", "no agreement on the stop flag", "loop.py", "wish = self.strategy.world.agree(self._wish())", "wish = self._wish()",
            LOOP + "test_a_peer_that_was_asked_to_stop_stops_this_worker_too"),
    _mutant("L5", "the message does not name the host", "launch_ending.py", 'f"{socket.gethostname()}: {ending.message}"', 'f"{ending.message}"',
            UNIT + "launch/test_ending.py::test_message_opens_with_the_host_and_fits"),
    _mutant("L7", "the stall does not say where", "launch_watch.py", "{_innermost(stacks.get(local_rank, ''))}", "",
            UNIT + "launch/test_watch.py::test_a_silent_worker_is_dumped_and_killed"),
    _mutant("L8", "the launcher loads torch", "launch.py", "from rlhf_trainer import failures, launch_ending, launch_single\n",
            "from rlhf_trainer import failures, launch_ending, launch_gang, launch_single\n",
            LOCAL + "test_launch.py::test_single_worker_needs_no_torch_in_the_launcher"),
    _mutant("L9", "run.json wins over the environment", "launch_options.py",
            'master_address=environment.get("PET_MASTER_ADDR", gang.master_address)', "master_address=gang.master_address",
            UNIT + "launch/test_options.py::test_environment_wins_over_run_json"),
    _mutant("O2", "the merge forgets alpha / r", "models/adapters.py", "layer.get_delta_weight(ADAPTER).float()",
            "layer.get_delta_weight(ADAPTER).float() / layer.scaling[ADAPTER]",
            UNIT + "models/test_adapters.py::test_merged_weights_give_the_same_logits_in_a_model_without_adapters"),
    _mutant("O4", "nothing is compared", "stages/outputs.py", "if not difference <= TOLERANCE[stored]:", "if False:",
            UNIT + "stages/test_training.py::test_an_output_that_is_not_what_was_trained_is_refused"),
    _mutant("O5", "half a byte a weight, and nothing else", "models/quantized.py",
            "return -(-num_weights // 2) + num_scales + 4 * -(-num_scales // BLOCK_SCALES) + TABLE_BYTES", "return num_weights // 2",
            UNIT + "models/test_quantized.py::test_size_and_error_follow_the_format"),
    _mutant("O6", "errors are not relative", "models/quantized.py", "return math.sqrt(squares / norm) if norm else 0.0", "return math.sqrt(squares)",
            UNIT + "models/test_quantized.py::test_size_and_error_follow_the_format"),
    _mutant("O8", "the gate comes before the output", "stages/reward.py", "_check_gate(config, result.metrics)\n    return result", "return result",
            TRAINING + "test_a_missed_gate_keeps_the_output"),
    _mutant("S1", "plain loads peft", "strategy/plain.py", "import logging\n", "import logging\n\nimport peft\n",
            UNIT + "strategy/test_masters.py::test_plain_imports_neither_colossalai_nor_peft_nor_bitsandbytes"),
    _mutant("S2", "newer versions pass", "doctor.py", "(first_refused is None or numbers < first_refused)", "True",
            UNIT + "test_doctor.py::test_pins_are_compared_as_numbers"),
    _mutant("S3", "workers may use the network", "launch.py", '{"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}', "{}",
            LOCAL + "test_launch.py::test_workers_are_offline"),
)  # fmt: skip

MUTANTS = SFT_AND_REWARD + PPO + STATE + DATA + MACHINERY
