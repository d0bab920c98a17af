//! The embedded broker.
/// placeholder
#[derive(Debug)]
pub struct EmbeddedBroker;
