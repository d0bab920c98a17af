//! RabbitMQ.
/// placeholder
#[derive(Debug)]
pub struct RabbitBroker;
/// placeholder
#[derive(Debug)]
pub struct RabbitOptions;
