//! What lapin's errors mean to the seam. No text holds the address's user or password.

use std::io;

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};

use super::super::Error;
use super::options::Address;

/// Reads an error of an operation on a connection that was there.
pub(super) fn unavailable(doing: &'static str, error: &lapin::Error) -> Error {
    Error::Unavailable { doing, reason: error.to_string() }
}

/// Makes the error of an operation that took too long.
pub(super) fn timed_out(doing: &'static str) -> Error {
    Error::Unavailable { doing, reason: "no answer in time".to_owned() }
}

/// Makes the error of an operation after the shutdown.
pub(super) fn shut_down(doing: &'static str) -> Error {
    Error::Unavailable { doing, reason: "the connection was shut down".to_owned() }
}

/// Reads an error of connecting.
pub(super) fn connecting(address: &Address, error: &lapin::Error) -> Error {
    match error.kind() {
        ErrorKind::ProtocolError(protocol) => match protocol.kind() {
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Error::Setup(format!(
                "RabbitMQ at {address} refuses the user or the password; correct AMQP_URL (`guest` may log in only from the \
                 server's own machine)"
            )),
            AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => Error::Setup(format!(
                "RabbitMQ at {address} refuses the virtual host `{vhost}`: it is not there or not open to this user; run \
                 `rabbitmqctl add_vhost {vhost}` and `rabbitmqctl set_permissions`, or correct AMQP_URL",
                vhost = address.vhost()
            )),
            _ => refused(address, error),
        },
        ErrorKind::InvalidProtocolVersion(_) | ErrorKind::ParsingError(_) => {
            Error::Setup(format!("what listens at {address} is not RabbitMQ; correct AMQP_URL"))
        }
        ErrorKind::IOError(cause) => match cause.kind() {
            io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
                Error::Unavailable {
                    doing: "connecting",
                    reason: format!("what listens at {address} hung up; it may still be starting ({cause})"),
                }
            }
            _ => Error::Unavailable {
                doing: "connecting",
                reason: format!("no RabbitMQ at {address}; start it or set AMQP_URL ({cause})"),
            },
        },
        _ => refused(address, error),
    }
}

fn refused(address: &Address, error: &lapin::Error) -> Error {
    Error::Unavailable { doing: "connecting", reason: format!("RabbitMQ at {address} said: {error}") }
}

/// Makes the error of a server that accepts connections and says nothing.
pub(super) fn silent(address: &Address) -> Error {
    Error::Unavailable {
        doing: "connecting",
        reason: format!("no answer in time from {address}; start RabbitMQ or set AMQP_URL"),
    }
}

/// What is declared.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    /// An exchange.
    Exchange,
    /// A queue.
    Queue,
    /// The binding of a queue.
    Binding,
}

/// Reads an error of declaring a part of the topology.
pub(super) fn declaring(part: Part, name: &str, error: &lapin::Error) -> Error {
    let what = match part {
        Part::Exchange => "exchange",
        Part::Queue => "queue",
        Part::Binding => "binding of the queue",
    };
    match (soft(error), part) {
        (Some(AMQPSoftError::PRECONDITIONFAILED), Part::Queue) => Error::Setup(format!(
            "the queue `{name}` exists with other arguments: let the program that made it work its messages, then run \
             `rabbitmqctl delete_queue {name}`, or choose another prefix ({error})"
        )),
        (Some(AMQPSoftError::PRECONDITIONFAILED), Part::Exchange) => Error::Setup(format!(
            "the exchange `{name}` exists with other arguments: delete it, or choose another prefix ({error})"
        )),
        (Some(AMQPSoftError::ACCESSREFUSED), _) => Error::Setup(format!(
            "this user may not declare the {what} `{name}`: grant it with `rabbitmqctl set_permissions`"
        )),
        _ => unavailable("declaring queues", error),
    }
}

/// Returns what closed a channel, if that is what the error says.
pub(super) fn soft(error: &lapin::Error) -> Option<AMQPSoftError> {
    match error.kind() {
        ErrorKind::ProtocolError(protocol) => match protocol.kind() {
            AMQPErrorKind::Soft(soft) => Some(soft.clone()),
            AMQPErrorKind::Hard(_) => None,
        },
        _ => None,
    }
}
