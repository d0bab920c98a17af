//! The page of a scrape: what is counted, and what is read where it is kept anyway.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use gristmill_common::failure::ErrorClass;
use gristmill_common::quota::Dimension;

use super::counts::{Counts, label};
use super::family;
use super::process;
use super::text::{Format, Page};
use crate::gate::Gate;
use crate::group::Group;
use crate::health::Health;
use crate::quota::{Figures, Ledger};
use crate::slot::Slots;

/// What a scrape reads.
#[derive(Debug)]
pub(crate) struct Metrics {
    counts: Arc<Counts>,
    health: Arc<Health>,
    /// What the worker is made of, once it is.
    parts: OnceLock<Parts>,
}

/// The parts of a worker of which a scrape asks how they stand.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) groups: Vec<Arc<Group>>,
    pub(crate) ledgers: Vec<Arc<Ledger>>,
    /// Calls that run.
    pub(crate) calls: Slots,
    pub(crate) concurrency: usize,
}

impl Metrics {
    pub(crate) const fn new(counts: Arc<Counts>, health: Arc<Health>) -> Self {
        Self { counts, health, parts: OnceLock::new() }
    }

    /// Takes in what the worker is made of.
    pub(crate) fn watch(&self, parts: Parts) {
        parts.groups.iter().for_each(|group| self.counts.know_group(&group.name));
        parts.gates().for_each(|gate| self.counts.know_deployment(&gate.deployment.name));
        // It is made once in a process's life.
        let _ = self.parts.set(parts);
    }

    /// Writes the page.
    pub(crate) fn page(&self, format: Format) -> String {
        let mut page = Page::new(format);
        self.write(&mut page);
        page.finish()
    }

    fn write(&self, page: &mut Page) {
        self.counts.show(page);
        let none =
            Parts { groups: Vec::new(), ledgers: Vec::new(), calls: Slots::new(0, Arc::default()), concurrency: 0 };
        let parts = self.parts.get().unwrap_or(&none);
        parts.show_work(page);
        parts.show_deployments(page);
        parts.show_limits(page);
        self.show_standing(page);
        page.family(&family::BUILD, |samples| samples.value(&[env!("CARGO_PKG_VERSION")], 1.0));
        process::show(page);
    }

    #[expect(clippy::cast_precision_loss, reason = "connections of a process")]
    fn show_standing(&self, page: &mut Page) {
        let lease = self.health.lease();
        let now = Instant::now();
        page.family(&family::LEASE_REMAINING, |samples| {
            let Some(lease) = &lease else { return };
            let left = lease.over_for().map_or_else(|| lease.left(now).as_secs_f64(), |over| -over.as_secs_f64());
            samples.value(&[], left);
        });
        let contact = lease.as_ref().map(|lease| lease.contact());
        page.family(&family::LEASE_AGE, |samples| {
            let Some(contact) = &contact else { return };
            samples.value(&[], now.saturating_duration_since(contact.answered).as_secs_f64());
        });
        page.flag(&family::READY, self.health.is_ready());
        page.flag(&family::DRAINING, self.health.drains());
        page.flag(&family::STORE_UP, contact.is_some_and(|contact| contact.failure.is_none()));
        let broker = self.health.broker();
        page.flag(&family::BROKER_UP, broker.listens().is_ok());
        page.one(&family::BROKER_RECONNECTS, broker.reconnects() as f64);
    }
}

impl Parts {
    fn gates(&self) -> impl Iterator<Item = &Arc<Gate>> {
        self.groups.iter().flat_map(|group| &group.gates)
    }

    #[expect(clippy::cast_precision_loss, reason = "jobs of a process")]
    fn show_work(&self, page: &mut Page) {
        page.family(&family::JOBS_HELD, |samples| {
            for group in &self.groups {
                samples.value(&[&group.name], group.window.held() as f64);
            }
        });
        page.one(&family::SLOTS, self.concurrency as f64);
        page.one(&family::SLOTS_USED, self.concurrency.saturating_sub(self.calls.free()) as f64);
    }

    fn show_deployments(&self, page: &mut Page) {
        page.family(&family::CALLS_IN_FLIGHT, |samples| {
            self.gates().for_each(|gate| samples.value(&[&gate.deployment.name], gate.in_flight().into()));
        });
        page.family(&family::DEPLOYMENT, |samples| {
            for gate in self.gates() {
                let of = &gate.deployment;
                samples.value(&[&of.name, &of.group, &of.provider, &of.model, &of.account], 1.0);
            }
        });
        let reports: Vec<_> = self.gates().map(|gate| (&*gate.deployment.name, gate.report())).collect();
        page.family(&family::PAUSED, |samples| {
            for (name, report) in &reports {
                samples.value(&[name], f64::from(u8::from(report.paused.is_some())));
            }
        });
        page.family(&family::PAUSE_REASON, |samples| {
            for (name, report) in &reports {
                if let Some(class) = &report.class {
                    samples.value(&[name, label(&ErrorClass::from_name(class))], 1.0);
                }
            }
        });
    }

    #[expect(clippy::cast_precision_loss, reason = "limits are far below 2^52")]
    fn show_limits(&self, page: &mut Page) {
        let accounts: Vec<(&str, Figures)> =
            self.ledgers.iter().map(|ledger| (&*ledger.account, ledger.figures())).collect();
        let each = |show: &mut dyn FnMut(&str, &Figures)| {
            accounts.iter().for_each(|(account, figures)| show(account, figures));
        };
        page.family(&family::LIMIT, |samples| {
            each(&mut |account, figures| {
                for dimension in Dimension::ALL {
                    let learnt = figures.known.learnt.filter(|_| dimension == Dimension::Requests);
                    for (source, limit) in [
                        ("configured", figures.configured.of_a_minute(dimension)),
                        ("written", figures.known.written[dimension]),
                        ("told", figures.known.told[dimension]),
                        ("learnt", learnt),
                        ("effective", figures.per_minute[dimension]),
                    ] {
                        if let Some(limit) = limit {
                            samples.value(&[account, dimension.as_str(), source], limit as f64);
                        }
                    }
                }
            });
        });
        page.family(&family::LIMIT_DAY, |samples| {
            each(&mut |account, figures| {
                let of_a_day =
                    [(Dimension::Requests, figures.configured.rpd), (Dimension::Tokens, figures.configured.tpd)];
                for (dimension, limit) in of_a_day {
                    if let Some(limit) = limit {
                        samples.value(&[account, dimension.as_str()], limit as f64);
                    }
                }
            });
        });
        page.family(&family::LIMIT_CONCURRENCY, |samples| {
            each(&mut |account, figures| {
                for (source, limit) in [
                    ("configured", figures.configured.max_parallel_requests),
                    ("learnt", figures.known.learnt_at_once),
                    ("effective", figures.known.at_once),
                ] {
                    if let Some(limit) = limit {
                        samples.value(&[account, source], limit as f64);
                    }
                }
            });
        });
        page.family(&family::LIMIT_SLOTS, |samples| {
            each(&mut |account, figures| {
                if let Some(slots) = figures.slots {
                    samples.value(&[account], slots as f64);
                }
            });
        });
        for (family, of) in [
            (&family::LIMIT_LEASED, (|figures, dimension| figures.leased[dimension]) as fn(&Figures, Dimension) -> u64),
            (&family::LIMIT_USED, |figures, dimension| figures.used[dimension]),
        ] {
            page.family(family, |samples| {
                each(&mut |account, figures| {
                    for dimension in Dimension::ALL {
                        let units = of(figures, dimension);
                        if units > 0 || figures.per_minute[dimension].is_some() {
                            samples.value(&[account, dimension.as_str()], units as f64);
                        }
                    }
                });
            });
        }
        page.family(&family::LIMIT_REFUSED, |samples| {
            each(&mut |account, figures| samples.value(&[account], figures.refused as f64));
        });
        page.family(&family::LIMIT_BLOCKED, |samples| {
            each(&mut |account, figures| samples.value(&[account], f64::from(u8::from(figures.blocked))));
        });
    }
}
