//! What every back end of a seam must do, written once.

pub mod broker;
