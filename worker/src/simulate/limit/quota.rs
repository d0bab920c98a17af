//! One limit as it is enforced, in whatever shape.

use std::time::{Duration, Instant};

use super::bucket::Bucket;
use super::shape::LimitShape;
use super::window::Window;
use super::{Dimension, Left};

/// What is left of one limit.
#[derive(Debug, Clone)]
pub(super) enum Quota {
    Bucket(Bucket, Duration),
    Window(Window),
}

impl Quota {
    /// Starts full; windows are counted from `start`.
    pub(super) fn new(shape: LimitShape, dimension: Dimension, limit: u32, start: Instant, now: Instant) -> Self {
        let period = dimension.period();
        let width = match (shape, dimension) {
            (LimitShape::Bucket { burst }, _) => {
                let burst = if dimension == Dimension::RequestsPerDay { period } else { burst };
                return Self::Bucket(Bucket::new(limit, period, burst, now), burst);
            }
            (LimitShape::Azure { sub_window }, Dimension::Requests) => sub_window,
            (LimitShape::Azure { .. } | LimitShape::Window, _) => period,
        };
        Self::Window(Window::new(limit, period, width, start))
    }

    /// Replaces the limit; what was used of the old one is used of the new one, in proportion.
    pub(super) fn scaled(self, limit: u32, now: Instant) -> Self {
        match self {
            Self::Bucket(bucket, burst) => Self::Bucket(bucket.scaled(limit, burst, now), burst),
            Self::Window(window) => Self::Window(window.scaled(limit, now)),
        }
    }

    /// Returns the wait until a cost can be taken; `None` when it never can.
    ///
    /// A cost of nothing fits as long as no more was taken than there was.
    pub(super) fn wait(&mut self, cost: u64, now: Instant) -> Option<Duration> {
        match self {
            Self::Bucket(bucket, _) => bucket.wait(cost, now),
            Self::Window(window) => window.wait(cost, now),
        }
    }

    /// Takes a cost, on credit if need be.
    pub(super) fn take(&mut self, cost: u64, now: Instant) {
        match self {
            Self::Bucket(bucket, _) => bucket.take(cost, now),
            Self::Window(window) => window.take(cost, now),
        }
    }

    pub(super) fn left(&mut self, now: Instant) -> Left {
        match self {
            Self::Bucket(bucket, _) => bucket.left(now),
            Self::Window(window) => window.left(now),
        }
    }
}
