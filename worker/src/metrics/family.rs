//! Every metric: its name, kind, unit, labels and meaning.

/// A metric with all its labels.
#[derive(Debug)]
pub struct Family {
    /// The name; counters end in `_total`.
    pub name: &'static str,
    /// What its number does.
    pub kind: Kind,
    /// What is counted or measured.
    pub unit: &'static str,
    /// The names of its labels, in order.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

/// What a metric's number does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It grows until the process ends.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many values were at most so large.
    Histogram,
}

impl Kind {
    /// Returns what the exposition format calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Defines families; the doc comment is the help text.
macro_rules! families {
    ($($(#[doc = $help:literal])+ $id:ident: $kind:ident $name:literal $unit:literal [$($label:ident),*];)*) => {
        $($(#[doc = $help])+
        pub(crate) const $id: Family = Family {
            name: $name,
            kind: Kind::$kind,
            unit: $unit,
            labels: &[$(stringify!($label)),*],
            help: concat!($($help),+).trim_ascii(),
        };)*

        /// All metrics, in the order in which a scrape shows them.
        pub const FAMILIES: &[Family] = &[$($id),*];
    };
}

families! {
    /// Runs that ended and whose results the store took.
    JOBS_ENDED: Counter "gristmill_jobs_ended_total" "runs" [group, status];
    /// Arrivals of jobs, by what admission decided of them; those that it runs are `run`.
    ADMISSIONS: Counter "gristmill_admissions_total" "arrivals" [group, verdict];
    /// Messages that were acknowledged, since what they brought is held or has ended.
    ACKS: Counter "gristmill_messages_acked_total" "messages" [group];
    /// Messages that this worker kept as dead letters.
    DEAD_LETTERS: Counter "gristmill_dead_letters_total" "messages" [];
    /// Jobs that this worker holds, from admission until their results are committed.
    JOBS_HELD: Gauge "gristmill_jobs_held" "jobs" [group];
    /// Jobs that wait here for a call, in the group that they would be called in.
    JOBS_WAITING: Gauge "gristmill_jobs_waiting" "jobs" [group, priority];
    /// How long a job waited here for its call, from admission or from the fallback to the group.
    QUEUE_WAIT: Histogram "gristmill_queue_wait_seconds" "seconds" [group];
    /// Runs that went back to wait without a call, since this worker drains, their deployments are paused or limits let none start.
    PUT_BACK: Counter "gristmill_jobs_put_back_total" "runs" [group];
    /// Runs that come back after a failed call, by the class of its error.
    RETRIES: Counter "gristmill_retries_total" "runs" [group, class];
    /// Runs that went on in another group (`to`) than the one that they were submitted for, by the class of the error that sent them
    /// there.
    FALLBACKS: Counter "gristmill_fallbacks_total" "runs" [group, to, class];
    /// Calls of providers; `outcome` is `ok` or the class of the error, `http_status` is `2xx`, `4xx` and so on, or `none`.
    CALLS: Counter "gristmill_calls_total" "calls" [deployment, outcome, http_status];
    /// Time of a call from its start to its end.
    CALL_DURATION: Histogram "gristmill_call_duration_seconds" "seconds" [deployment];
    /// Time from the start of a call to the head of its answer, or to the first output of a stream.
    FIRST_BYTE: Histogram "gristmill_call_first_byte_seconds" "seconds" [deployment];
    /// Calls that run or are about to.
    CALLS_IN_FLIGHT: Gauge "gristmill_calls_in_flight" "calls" [deployment];
    /// Tokens of calls as the provider counted them: `input` and, within it, `input_cached` and `input_cache_write`; `output` and,
    /// within it, `output_reasoning`.
    TOKENS: Counter "gristmill_tokens_total" "tokens" [deployment, kind];
    /// Cost of calls, as far as their price is known.
    COST: Counter "gristmill_cost_usd_total" "US dollars" [deployment];
    /// Calls whose cost is not known.
    COST_UNKNOWN: Counter "gristmill_calls_of_unknown_cost_total" "calls" [deployment];
    /// What the deployments are; always 1.
    DEPLOYMENT: Gauge "gristmill_deployment_info" "1" [deployment, group, provider, model, account];
    /// Whether a deployment is paused, as far as this worker knows: 1 or 0.
    PAUSED: Gauge "gristmill_deployment_paused" "0 or 1" [deployment];
    /// The class of the error that a deployment is paused for; 1 while it is.
    PAUSE_REASON: Gauge "gristmill_deployment_pause_reason" "1" [deployment, class];
    /// Calls that run at once at most (`concurrency`).
    SLOTS: Gauge "gristmill_slots" "calls" [];
    /// Slots that are taken.
    SLOTS_USED: Gauge "gristmill_slots_used" "calls" [];
    /// Results that wait to be committed.
    UNCOMMITTED: Gauge "gristmill_results_uncommitted" "results" [];
    /// Time of a flush, from its first try until the store took it.
    FLUSH_DURATION: Histogram "gristmill_flush_duration_seconds" "seconds" [];
    /// Runs that one flush settled.
    FLUSH_SIZE: Histogram "gristmill_flush_size" "runs" [];
    /// Tries to flush that failed; each is repeated.
    FLUSH_FAILURES: Counter "gristmill_flush_failures_total" "tries" [];
    /// Results that were not written since their runs were others' by then; they count among those that ended.
    RESULTS_LOST: Counter "gristmill_results_lost_total" "results" [];
    /// Rows that the store refused and kept as failed.
    RESULTS_REJECTED: Counter "gristmill_results_rejected_total" "results" [];
    /// Limits in a minute over all workers, where there are any: `configured` in this worker's configuration, `written` for the
    /// fleet, `told` by the provider's headers, `learnt` from refusals; `effective` is what holds.
    LIMIT: Gauge "gristmill_limit_per_minute" "units a minute" [account, dimension, source];
    /// Limits in a day, by this worker's configuration.
    LIMIT_DAY: Gauge "gristmill_limit_per_day" "units a day" [account, dimension];
    /// Calls at once over all workers, where they are limited: `configured` in this worker's configuration, `learnt` from overloads
    /// and their absence; `effective` is what holds.
    LIMIT_CONCURRENCY: Gauge "gristmill_limit_concurrency" "calls" [account, source];
    /// Calls of an account that this worker may run at once, where that is limited.
    LIMIT_SLOTS: Gauge "gristmill_limit_slots" "calls" [account];
    /// Units of a limit that were leased to this worker.
    LIMIT_LEASED: Counter "gristmill_limit_leased_units_total" "units" [account, dimension];
    /// Units of a limit that this worker's calls used, as the provider counts them.
    LIMIT_USED: Counter "gristmill_limit_used_units_total" "units" [account, dimension];
    /// Calls that the provider refused for their rate (429).
    LIMIT_REFUSED: Counter "gristmill_limit_refused_calls_total" "calls" [account];
    /// Notable changes of a limit that this worker heard of: `learnt`, `cut` or `raised` as calls went, `told` by headers, `written`
    /// down by somebody, `forgotten`. The calls at once have the dimension `concurrency`.
    LIMIT_CHANGES: Counter "gristmill_limit_changes_total" "changes" [account, dimension, change];
    /// Whether a limit of an account is used up for long, as that of a day can be: 1 or 0.
    LIMIT_BLOCKED: Gauge "gristmill_limit_blocked" "0 or 1" [account];
    /// Asks of leases of limits that the store did not answer.
    LIMIT_FAILURES: Counter "gristmill_limit_lease_failures_total" "asks" [];
    /// How long this worker may go on without a renewal of its lease; below zero, how long ago it ran out.
    LEASE_REMAINING: Gauge "gristmill_lease_remaining_seconds" "seconds" [];
    /// How long ago the store answered a renewal last.
    LEASE_AGE: Gauge "gristmill_lease_age_seconds" "seconds" [];
    /// Sessions that this worker began; one more than the leases that it lost.
    SESSIONS: Counter "gristmill_sessions_total" "sessions" [];
    /// Whether this worker takes jobs and calls them, as `/ready` says: 1 or 0.
    READY: Gauge "gristmill_ready" "0 or 1" [];
    /// Whether this worker was asked to stop: 1 or 0.
    DRAINING: Gauge "gristmill_draining" "0 or 1" [];
    /// Whether the store answered the last renewal: 1 or 0.
    STORE_UP: Gauge "gristmill_store_up" "0 or 1" [];
    /// Times that the store answered a renewal again after it had not.
    STORE_RECONNECTS: Counter "gristmill_store_reconnects_total" "times" [];
    /// Whether messages of all that is subscribed arrive: 1 or 0.
    BROKER_UP: Gauge "gristmill_broker_up" "0 or 1" [];
    /// Times that a connection to the broker was opened again after it was lost.
    BROKER_RECONNECTS: Counter "gristmill_broker_reconnects_total" "times" [];
    /// Whether this worker is the fleet's keeper: 1 or 0.
    KEEPER: Gauge "gristmill_keeper_active" "0 or 1" [];
    /// Jobs that this worker dealt with as the keeper: `due` and `abandoned` were queued, `returned` and `poisoned` were taken over
    /// from dead workers, `cancelled` and `expired` were ended.
    KEEPER_JOBS: Counter "gristmill_keeper_jobs_total" "jobs" [action];
    /// Messages put aside that this worker dealt with as the keeper: `buried` as dead letters, `put_back` into their queue.
    KEEPER_MESSAGES: Counter "gristmill_keeper_messages_total" "messages" [action];
    /// Rounds of the keeper that failed; each is repeated.
    KEEPER_FAILURES: Counter "gristmill_keeper_failures_total" "rounds" [];
    /// The version of this program; always 1.
    BUILD: Gauge "gristmill_build_info" "1" [version];
    /// When the process started, in seconds since 1970.
    PROCESS_START: Gauge "process_start_time_seconds" "seconds" [];
    /// Time that the process was on a processor. Linux only, as are all of the process's own.
    PROCESS_CPU: Counter "process_cpu_seconds_total" "seconds" [];
    /// Memory of the process that is in use.
    PROCESS_RESIDENT: Gauge "process_resident_memory_bytes" "bytes" [];
    /// Memory of the process, with what is not in use.
    PROCESS_VIRTUAL: Gauge "process_virtual_memory_bytes" "bytes" [];
    /// Files and connections that the process has open.
    PROCESS_FDS: Gauge "process_open_fds" "files" [];
    /// Files and connections that it may have open.
    PROCESS_MAX_FDS: Gauge "process_max_fds" "files" [];
    /// Threads of the process.
    PROCESS_THREADS: Gauge "process_threads" "threads" [];
}
