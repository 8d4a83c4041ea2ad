//! The way to the collector of traces, as OpenTelemetry's standard variables name it.

use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use super::variable;
use crate::config::BadSettings;

/// Sends spans to the collector; `None` where no variable names one. Needs a Tokio runtime.
pub(super) fn exporter() -> Result<Option<SpanExporter>, BadSettings> {
    let is_off = variable("OTEL_SDK_DISABLED") == "true" || variable("OTEL_TRACES_EXPORTER") == "none";
    let Some((_, endpoint)) = given("ENDPOINT").filter(|_| !is_off) else {
        return Ok(None);
    };
    if let Some((name, protocol)) = given("PROTOCOL").filter(|(_, protocol)| protocol != "grpc") {
        let said = format!("{name} is {protocol}; traces are sent by grpc only");
        return Err(BadSettings(said));
    }
    let endpoint = with_scheme(endpoint);
    let is_secured = scheme(&endpoint).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    let mut exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint);
    if is_secured {
        exporter = exporter.with_tls_config(tls()?);
    }
    let exporter = exporter.build();
    let exporter = exporter.map_err(|error| BadSettings(format!("OTEL_EXPORTER_OTLP_…: {error}")))?;
    Ok(Some(exporter))
}

/// Where the endpoint has no scheme, another variable says whether plain text is spoken.
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

/// Whom to trust, and what to show to whom asks for it.
fn tls() -> Result<ClientTlsConfig, BadSettings> {
    let tls = match pem("CERTIFICATE")? {
        Some((name, pem)) => {
            if !matches!(CertificateDer::pem_slice_iter(&pem).next(), Some(Ok(_))) {
                return Err(BadSettings(format!("the file of {name} holds no certificate")));
            }
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
        }
        None => ClientTlsConfig::new().with_native_roots(),
    };
    match (pem("CLIENT_CERTIFICATE")?, pem("CLIENT_KEY")?) {
        (None, None) => Ok(tls),
        (Some((_, cert)), Some((_, key))) => Ok(tls.identity(Identity::from_pem(cert, key))),
        (Some((name, _)), None) | (None, Some((name, _))) => {
            let said = format!("{name} is set alone; a client's certificate and its key go together");
            Err(BadSettings(said))
        }
    }
}

/// The content of the file that a variable names, and the variable.
fn pem(suffix: &str) -> Result<Option<(String, Vec<u8>)>, BadSettings> {
    let Some((name, path)) = given(suffix) else {
        return Ok(None);
    };
    let content = std::fs::read(&path);
    let content = content.map_err(|error| BadSettings(format!("{name}: {path} cannot be read: {error}")))?;
    Ok(Some((name, content)))
}

/// A variable's name and value; what is said of traces goes before what is said of all signals.
fn given(suffix: &str) -> Option<(String, String)> {
    let names = [
        format!("OTEL_EXPORTER_OTLP_TRACES_{suffix}"),
        format!("OTEL_EXPORTER_OTLP_{suffix}"),
    ];
    let values = names.map(|name| (variable(&name), name));
    let (value, name) = values.into_iter().find(|(value, _)| !value.is_empty())?;
    Some((name, value))
}
