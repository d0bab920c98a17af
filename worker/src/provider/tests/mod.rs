//! The provider against recorded answers and against real servers on loopback.

mod canary;
mod fixtures;
mod server;
mod streams;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gristmill_common::failure::{ErrorClass, ErrorRecord};

use super::Reply;

pub(super) use server::deployment;
