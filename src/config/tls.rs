//! Certificates of the server and of its callers.

use std::path::PathBuf;

use clap::Args;

use super::BadSettings;
use crate::server::{ClientAuth, TlsFiles};

/// Who the server says that it is, and whom it lets in.
#[derive(Args, Clone, Debug)]
pub struct TlsArgs {
    /// PEM file with the server's certificate and those between it and its authority; with it only TLS
    /// is spoken [default: plain text]
    #[arg(long, env = "EVENTS_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the key of --tls-cert [default: none]
    #[arg(long, env = "EVENTS_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// PEM file with the authorities whose certificates callers show [default: none]
    #[arg(long, env = "EVENTS_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// Whether callers must show a certificate of --tls-client-ca [default: required]
    #[arg(long, env = "EVENTS_TLS_CLIENT_AUTH", value_name = "WHETHER", value_enum)]
    pub tls_client_auth: Option<ClientAuth>,
}

impl TlsArgs {
    /// The files, if TLS is to be spoken.
    ///
    /// # Errors
    /// When one is given without the other that it needs.
    pub fn files(&self) -> Result<Option<TlsFiles>, BadSettings> {
        let together = |message: &str| Err(BadSettings(message.to_owned()));
        match (&self.tls_client_ca, self.tls_client_auth) {
            (None, Some(_)) => return together("--tls-client-auth needs --tls-client-ca"),
            (Some(_), _) if self.tls_cert.is_none() => {
                return together("--tls-client-ca needs --tls-cert and --tls-key");
            }
            _ => {}
        }
        match (&self.tls_cert, &self.tls_key) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => Ok(Some(TlsFiles {
                cert: cert.clone(),
                key: key.clone(),
                client_ca: self
                    .tls_client_ca
                    .clone()
                    .map(|path| (path, self.tls_client_auth.unwrap_or(ClientAuth::Required))),
            })),
            _ => together("--tls-cert and --tls-key go together"),
        }
    }
}
