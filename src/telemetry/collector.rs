//! Builds the exporter of traces from OpenTelemetry's standard environment variables.

use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use super::variable;
use crate::config::BadSettings;

/// Returns the exporter to the collector, or `None` if no variable names a collector or traces are turned
/// off. Needs a Tokio runtime.
pub(super) fn exporter() -> Result<Option<SpanExporter>, BadSettings> {
    let is_off = variable("OTEL_SDK_DISABLED") == "true" || variable("OTEL_TRACES_EXPORTER") == "none";
    let Some((_, endpoint)) = given("ENDPOINT").filter(|_| !is_off) else {
        return Ok(None);
    };
    if let Some((name, protocol)) = given("PROTOCOL").filter(|(_, protocol)| protocol != "grpc") {
        let message = format!("{name} is {protocol}, but traces are exported by grpc only");
        return Err(BadSettings(message));
    }
    let endpoint = with_scheme(endpoint);
    let uses_tls = scheme(&endpoint).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let mut exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint);
    if uses_tls {
        exporter = exporter.with_tls_config(tls()?);
    }
    let exporter = exporter.build();
    let exporter = exporter.map_err(|error| BadSettings(format!("OTEL_EXPORTER_OTLP_…: {error}")))?;
    Ok(Some(exporter))
}

/// Adds a scheme if the endpoint has none: `http` if the variable `…_INSECURE` is true, otherwise `https`.
fn with_scheme(endpoint: String) -> String {
    if scheme(&endpoint).is_some() {
        return endpoint;
    }
    let is_plain = given("INSECURE").is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"));
    format!("{}://{endpoint}", if is_plain { "http" } else { "https" })
}

fn scheme(endpoint: &str) -> Option<&str> {
    let (scheme, _) = endpoint.split_once("://")?;
    (!scheme.contains(['/', '?', '#'])).then_some(scheme)
}

/// Returns the trusted CA certificates and the client certificate.
fn tls() -> Result<ClientTlsConfig, BadSettings> {
    let tls = match pem("CERTIFICATE")? {
        Some((name, pem)) => {
            if !matches!(CertificateDer::pem_slice_iter(&pem).next(), Some(Ok(_))) {
                return Err(BadSettings(format!("the file of {name} contains no certificate")));
            }
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
        }
        None => ClientTlsConfig::new().with_native_roots(),
    };
    match (pem("CLIENT_CERTIFICATE")?, pem("CLIENT_KEY")?) {
        (None, None) => Ok(tls),
        (Some((_, cert)), Some((_, key))) => Ok(tls.identity(Identity::from_pem(cert, key))),
        (Some((name, _)), None) | (None, Some((name, _))) => {
            let message = format!("{name} is set alone; a client certificate and its key go together");
            Err(BadSettings(message))
        }
    }
}

/// Returns the name of a variable and the content of the file that it names, or `None` if it is not set.
fn pem(suffix: &str) -> Result<Option<(String, Vec<u8>)>, BadSettings> {
    let Some((name, path)) = given(suffix) else {
        return Ok(None);
    };
    let content = std::fs::read(&path);
    let content = content.map_err(|error| BadSettings(format!("{name}: cannot read {path}: {error}")))?;
    Ok(Some((name, content)))
}

/// Returns the name and value of a variable that is set. The variable for traces takes precedence over the
/// one for all signals.
fn given(suffix: &str) -> Option<(String, String)> {
    let names = [
        format!("OTEL_EXPORTER_OTLP_TRACES_{suffix}"),
        format!("OTEL_EXPORTER_OTLP_{suffix}"),
    ];
    let values = names.map(|name| (variable(&name), name));
    let (value, name) = values.into_iter().find(|(value, _)| !value.is_empty())?;
    Some((name, value))
}
