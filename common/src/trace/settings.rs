//! What the environment says of traces, by OpenTelemetry's own variables
//! (<https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/> and
//! <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>, read 2026-11).

use super::sampler::Sampler;

/// What is to be recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Settings {
    pub(super) sampler: Sampler,
}

impl Settings {
    /// Reads variables; `None` where traces go nowhere. `tell` hears what is wrong.
    ///
    /// Where they go and with which headers, the exporter reads itself.
    pub(super) fn read(variable: impl Fn(&str) -> Option<String>, tell: impl Fn(&str)) -> Option<Self> {
        // An empty value counts as none: <https://opentelemetry.io/docs/specs/otel/configuration/common/>.
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"))?;
        let is_disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if is_disabled || variable("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter.eq_ignore_ascii_case("none"))
        {
            return None;
        }
        let protocol =
            variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
        if protocol.is_some_and(|protocol| !protocol.eq_ignore_ascii_case("http/protobuf")) {
            tell(
                "traces go by OTLP's http/protobuf alone (port 4318 of most collectors), whatever OTEL_EXPORTER_OTLP_PROTOCOL says",
            );
        }
        let (name, argument) = (variable("OTEL_TRACES_SAMPLER"), variable("OTEL_TRACES_SAMPLER_ARG"));
        let sampler = Sampler::read(name.as_deref(), argument.as_deref()).unwrap_or_else(|error| {
            tell(&error.to_string());
            Sampler::default()
        });
        Some(Self { sampler })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn an_endpoint_turns_traces_on() {
        const HERE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        for (variables, is_on, told) in [
            (&[][..], false, 0),
            (&[HERE], true, 0),
            (&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4318/v1/traces")], true, 0),
            (&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")], false, 0),
            (&[HERE, ("OTEL_SDK_DISABLED", "True")], false, 0),
            (&[HERE, ("OTEL_SDK_DISABLED", "false")], true, 0),
            (&[HERE, ("OTEL_TRACES_EXPORTER", "none")], false, 0),
            (&[HERE, ("OTEL_TRACES_EXPORTER", "otlp")], true, 0),
            (&[HERE, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], true, 1),
            (&[HERE, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")], true, 0),
            (&[HERE, ("OTEL_TRACES_SAMPLER", "sometimes")], true, 1),
            (&[("OTEL_TRACES_SAMPLER", "sometimes")], false, 0),
        ] {
            let count = Cell::new(0);
            let variable =
                |name: &str| variables.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned());
            let settings = Settings::read(variable, |_| count.set(count.get() + 1));
            assert_eq!((settings.is_some(), count.get()), (is_on, told), "{variables:?}");
        }
    }
}
