//! Settings of TLS.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::BadSettings;

/// PEM files for TLS.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's certificate chain.
    pub cert: PathBuf,
    /// The private key of the server's certificate.
    pub key: PathBuf,
    /// The CA certificates for client certificates, and whether a client must present a certificate.
    pub client_ca: Option<(PathBuf, ClientAuth)>,
}

/// Whether a client must present a certificate. A presented certificate is always verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClientAuth {
    /// Clients without a certificate are accepted.
    Optional,
    /// Clients without a certificate are rejected.
    Required,
}

/// Flags for TLS.
#[derive(Args, Clone, Debug)]
pub struct TlsArgs {
    /// PEM file with the server's certificate chain; with it the server accepts TLS only
    /// [default: plain text]
    #[arg(long, env = "EVENTS_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the private key of --tls-cert [default: none]
    #[arg(long, env = "EVENTS_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// PEM file with the CA certificates for client certificates [default: none]
    #[arg(long, env = "EVENTS_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// Whether clients must present a certificate of --tls-client-ca [default: required]
    #[arg(long, env = "EVENTS_TLS_CLIENT_AUTH", value_name = "WHETHER", value_enum)]
    pub tls_client_auth: Option<ClientAuth>,
}

impl TlsArgs {
    /// Returns the files for TLS, or `None` for plain text.
    ///
    /// # Errors
    /// When a file is given without another that it needs.
    pub fn files(&self) -> Result<Option<TlsFiles>, BadSettings> {
        let incomplete = |message: &str| Err(BadSettings(message.to_owned()));
        match (&self.tls_client_ca, self.tls_client_auth) {
            (None, Some(_)) => return incomplete("--tls-client-auth needs --tls-client-ca"),
            (Some(_), _) if self.tls_cert.is_none() => {
                return incomplete("--tls-client-ca needs --tls-cert and --tls-key");
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
            _ => incomplete("--tls-cert and --tls-key go together"),
        }
    }
}
