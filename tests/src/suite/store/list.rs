//! The list of all behaviours, made into tests.

/// Makes a test of each behaviour for one back end: `store_suite!(open)`, where `async fn open() -> Lab` makes an empty
/// database.
#[macro_export]
macro_rules! store_suite {
    ($open:ident) => {
        $crate::store_suite! { @tests $open
            admission {
                an_arrival_is_admitted_with_its_recorded_request
                a_request_that_the_message_carries_is_taken_from_it
                no_arrivals_are_no_work
                two_concurrent_admits_of_one_job_admit_it_once
                an_owner_that_asks_again_gets_its_jobs_again
                a_waiting_job_is_taken_only_when_due
                a_queued_job_is_taken_by_whom_its_message_reaches
                a_job_that_has_ended_is_done
                a_job_of_a_cancelled_batch_is_handed_over_to_be_ended
                a_job_past_its_deadline_is_handed_over_to_be_ended
                copies_of_a_job_within_one_group_are_admitted_once
                a_job_of_an_unknown_batch_is_unknown
                a_job_without_any_request_is_unknown
                a_large_mixed_group_is_answered_in_its_order
                a_dead_owners_job_is_taken_with_what_it_had_done
                a_dead_or_unknown_owner_is_given_nothing
            }
            adoption {
                a_message_that_names_no_batch_is_adopted_into_the_days
                two_workers_that_adopt_at_once_agree
                a_message_is_adopted_into_the_batch_that_it_names
                a_message_of_a_recorded_job_that_does_not_say_so_counts_once
                a_message_of_an_unknown_batch_is_not_adopted
                an_adopted_job_for_later_waits
                an_adopted_job_past_its_deadline_is_handed_over
                a_message_adopted_into_a_cancelled_batch_is_cancelled
                adoption_into_a_batch_that_is_submitted_leaves_its_ordinals
            }
            asking {
                a_job_is_found_by_its_id_the_beginning_of_one_and_its_name
                an_adopted_job_is_found_by_its_id
                all_that_is_known_of_a_job_is_told
                the_runs_of_a_job_come_in_order_with_their_calls
                jobs_are_listed_with_where_they_are
                failed_jobs_are_listed_until_they_run_again
                a_worker_hears_once_that_it_should_look_again
                jobs_that_wait_for_a_resumed_deployment_are_due
                an_ended_batch_is_forgotten_in_steps
                an_open_batch_is_not_forgotten
                bodies_are_emptied_in_steps_and_such_jobs_run_no_more
                an_open_batch_keeps_its_bodies
                batches_that_ended_before_a_time_are_told_oldest_first
            }
            booking {
                sums_are_those_of_the_rows
                a_flush_that_is_repeated_is_counted_once
                runs_that_nobody_answers_are_counted
                sums_stay_as_they_grow_old
                sums_of_a_deleted_batch_keep_its_project
                the_sums_of_a_project_are_deleted_with_it
                what_a_run_has_cost_is_told_when_it_comes_back
                what_a_run_has_cost_stays_where_no_worker_ends_it
                a_corrected_cost_moves_every_sum_and_keeps_the_old_one
                an_estimated_cost_stays_estimated
                prices_are_kept_as_they_were_first_told
                calls_that_may_be_lost_with_their_owner_are_listed_with_a_bound
                an_owner_lost_no_more_calls_than_it_could_make
            }
            budgeting {
                a_budget_is_leased_to_each_within_what_is_left
                a_flush_takes_calls_off_their_budgets_once
                a_new_budget_counts_what_was_spent_before_and_is_corrected_by_the_records
                thresholds_are_told_once_until_somebody_took_them
                jobs_that_wait_for_a_budget_are_woken_when_it_is_raised
                a_batch_with_a_limit_has_a_budget_until_it_ends
            }
            caching {
                equal_requests_are_called_once_and_the_others_are_answered
                equal_requests_of_two_workers_at_once_are_called_once
                whoever_waits_is_woken_whichever_commits_first
                the_cache_has_no_part_in_what_does_not_ask_for_it
                samples_of_one_request_stay_apart
                projects_and_simulated_batches_have_answers_of_their_own
                who_only_reads_keeps_nothing_and_who_only_writes_is_not_answered
                a_call_under_way_is_waited_for_by_who_only_reads
                a_call_that_comes_back_is_still_waited_for
                who_waited_for_a_call_that_failed_makes_its_own
                who_waited_for_a_cancelled_run_waits_for_the_next_one
                who_waited_for_a_poisonous_run_makes_its_own
                a_run_that_waits_ends_at_its_deadline
                a_new_run_asks_again_and_one_of_a_success_is_called
                an_answer_that_is_not_to_be_kept_lets_the_others_call
                answers_go_when_their_time_is_over
                the_least_recently_used_answers_go_first
                answers_are_cleared_by_project
                answers_go_with_the_batch_that_has_them
                an_owner_that_asks_again_is_told_the_same
            }
            cancelling {
                a_cancelled_batch_ends_what_nobody_holds
                what_came_back_after_the_walk_is_ended_too
                a_cancelled_batch_with_calls_in_flight_is_walked_once
                one_cancelled_batch_with_held_jobs_does_not_keep_others_open
                a_batch_without_open_jobs_is_cancelled_at_once
                a_finished_batch_cannot_be_cancelled
                cancelling_while_submitting_ends_the_batch
                a_retried_run_of_a_cancelled_batch_ends_as_a_run_of_its_own
                workers_hear_of_cancelled_batches_until_they_end
                a_dead_owners_job_of_a_cancelled_batch_ends_once
            }
            closing {
                jobs_past_their_deadline_that_nobody_holds_expire
                an_expired_job_is_done_for_admission
                a_job_held_at_its_deadline_expires_when_it_comes_back
                a_retried_run_expires_as_a_run_of_its_own
            }
            flushing {
                a_batch_finishes_with_its_last_result
                counters_say_what_the_attempts_used
                a_repeated_flush_changes_nothing
                a_group_that_is_partly_written_adds_the_rest
                two_concurrent_flushes_of_one_group_write_it_once
                flushes_of_two_workers_into_shared_batches_do_not_block_each_other
                a_large_group_is_flushed_whole
                nothing_to_flush_is_no_work
                a_dead_owners_late_flush_is_lost_but_its_attempts_are_kept
                a_stranger_cannot_end_what_it_does_not_hold
                a_settlement_of_an_earlier_run_is_lost
                a_wake_up_is_no_later_than_the_deadline
                a_wait_longer_than_any_calendar_is_no_error
                results_of_all_four_kinds_are_counted_apart
                a_job_that_comes_back_is_the_same_run
            }
            keeping {
                there_is_one_keeper_until_its_lease_ends
                a_keeper_that_gives_its_lease_up_is_followed_at_once
                two_that_ask_at_once_are_not_both_keeper
                runs_of_a_dead_owner_are_due_at_once
                a_job_on_which_too_many_owners_died_fails
                a_job_that_dead_owners_held_and_did_not_call_counts_one_death
                burying_goes_in_bounded_steps
                due_runs_come_soonest_first
                a_run_that_moved_on_is_not_marked_as_queued
                jobs_of_a_vanished_producer_are_published_in_steps
                jobs_of_a_cancelled_batch_are_not_published
                unfinished_jobs_are_found_in_pages
                what_was_queued_and_lost_is_due_again
            }
            limiting {
                workers_that_lease_at_once_get_no_more_than_the_rate
                accounts_are_leased_in_the_order_of_the_asks_and_each_apart
                limits_that_somebody_sets_hold_for_every_worker_and_are_recorded
                a_pause_that_one_worker_finds_holds_for_the_other
            }
            letters {
                a_letter_without_jobs_is_kept
                the_jobs_of_a_letter_fail_unless_they_ended_or_are_held
                a_letter_can_finish_a_batch
                a_job_that_was_never_recorded_shows_as_failed
                two_copies_of_a_letter_buried_at_once_count_once
                a_job_of_an_unknown_batch_shows_in_the_days_batch
                a_letter_ends_the_run_that_it_is_of
            }
            looking {
                the_newest_runs_of_all_batches_come_first
                a_models_runs_are_found_among_others
                a_run_after_the_first_is_a_line_of_its_own
            }
            producing {
                a_new_batch_is_held_by_its_producer
                a_batch_of_a_live_producer_is_busy_for_others
                two_producers_that_open_one_name_at_once_get_one_batch
                a_batch_whose_producers_lease_ended_is_taken_up_where_it_stands
                a_batch_without_a_producer_is_interrupted
                renewing_keeps_a_batch
                simulated_and_real_answers_do_not_share_a_batch
                recording_a_chunk_again_changes_nothing
                a_large_chunk_is_recorded_whole
                a_cancelled_batch_records_nothing_more
                a_job_for_later_waits_in_its_live_row
                what_is_published_never_goes_back
                sealing_says_the_total
                a_seal_of_whoever_was_replaced_says_so_unless_the_batch_is_sealed
                an_empty_batch_is_finished_when_sealed
                sealing_after_the_last_result_finishes
                a_sealed_batch_can_be_taken_up_and_grow
                taking_up_a_finished_batch_and_sealing_it_again_changes_nothing
                identities_are_read_in_pages
                jobs_are_asked_for_their_names
                the_identity_of_a_simulated_job_differs
                deferred_jobs_wait_and_others_are_left_alone
                a_deferred_job_becomes_due
                an_unknown_batch_is_none
            }
            random {
                after_any_operations_counters_equal_rows_first_seed
                after_any_operations_counters_equal_rows_second_seed
                after_any_operations_counters_equal_rows_third_seed
                after_any_operations_counters_equal_rows_fourth_seed
            }
            reading {
                a_batch_is_found_by_each_name_that_people_use
                batches_are_listed_newest_first
                rows_are_read_in_pages_by_a_cursor_that_survives_as_text
                large_results_stand_among_small_ones
                paging_during_concurrent_flushes_sees_each_row_exactly_once
                a_later_run_comes_as_a_new_row
                errors_are_counted_by_class_of_each_jobs_latest_run
                progress_tells_held_from_waiting
                a_hint_comes_after_results
                the_schema_is_current_and_stays_so
            }
            waiting {
                what_a_batch_waits_for_is_told_by_group_and_reason
            }
            retrying {
                retry_opens_a_new_run_of_what_failed
                retry_takes_only_what_it_is_asked_for_by_the_latest_run
                retry_takes_only_the_jobs_that_it_is_given
                retry_goes_on_where_it_stopped
                retry_opens_a_cancelled_batch_again
                retry_of_a_batch_that_is_being_cancelled_is_a_conflict
                retries_of_an_unfinished_batch_leave_what_is_open
            }
            values {
                results_come_back_as_they_were
                an_empty_result_comes_back_empty
                every_class_of_error_comes_back_with_all_its_fields
                errors_of_every_class_with_any_fields_come_back_equal
                bodies_of_a_megabyte_come_back
                json_is_kept_to_the_byte
                requests_come_back_as_they_were
                attempts_of_every_shape_are_taken
            }
            working {
                a_worker_is_seen_as_it_is
                a_worker_whose_lease_ended_lives_again_unless_it_was_declared_dead
                an_unknown_worker_has_lost
                a_worker_that_leaves_returns_what_it_held_and_did_not_die
                paused_deployments_of_live_workers_are_told
            }
        }
    };
    (@tests $open:ident $($part:ident { $($name:ident)* })*) => {
        $(mod $part {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    $crate::suite::store::$part::$name(super::$open().await).await;
                }
            )*
        })*
    };
}

#[cfg(test)]
mod tests {
    /// The list above is written by hand; what is missing from it would never run.
    #[test]
    fn every_behaviour_is_in_the_list() {
        let list = include_str!("list.rs");
        let parts = [
            include_str!("admission.rs"),
            include_str!("adoption.rs"),
            include_str!("caching.rs"),
            include_str!("cancelling.rs"),
            include_str!("closing.rs"),
            include_str!("flushing.rs"),
            include_str!("keeping.rs"),
            include_str!("letters.rs"),
            include_str!("limiting.rs"),
            include_str!("producing.rs"),
            include_str!("random.rs"),
            include_str!("reading.rs"),
            include_str!("retrying.rs"),
            include_str!("values.rs"),
            include_str!("working.rs"),
        ];
        for line in parts.iter().flat_map(|part| part.lines()) {
            if let Some(name) = line.strip_prefix("pub async fn ").and_then(|rest| rest.strip_suffix("(lab: Lab) {")) {
                assert!(list.lines().any(|line| line.trim() == name), "{name} is in no list");
            }
        }
    }
}
