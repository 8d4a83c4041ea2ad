//! TLS from PEM files: what the server shows, whom it lets in, and reading it again while it runs.
//!
//! Connections keep what they were made with; new ones get what was read last. Files that cannot be
//! used leave the former ones in force.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::panics::keep_running;

/// Between two looks at whether the files have changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// The one protocol of gRPC, as TLS names it.
const ALPN: &[u8] = b"h2";

/// PEM files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The server's certificate and those between it and its authority.
    pub cert: PathBuf,
    /// The key of the first certificate.
    pub key: PathBuf,
    /// The authorities of callers' certificates, and whether one must be shown.
    pub client_ca: Option<(PathBuf, ClientAuth)>,
}

/// Whether a caller must show a certificate; one that is shown is always checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClientAuth {
    /// A caller may come without one.
    Optional,
    /// A caller without one is refused.
    Required,
}

/// What new connections are made with. Cheap to clone; all clones change together.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    files: TlsFiles,
    current: watch::Sender<Arc<ServerConfig>>,
    /// Of the files when they were last read, good or bad; none if they could not be.
    seen: Mutex<Option<Fingerprint>>,
}

type Fingerprint = [u8; 32];

impl Tls {
    /// # Errors
    /// When a file cannot be read or does not hold what it should; the message names it.
    pub async fn open(files: TlsFiles) -> anyhow::Result<Self> {
        let contents = Contents::read(&files).await?;
        let config = contents.config(&files)?;
        Ok(Self(Arc::new(Shared {
            seen: Mutex::new(Some(contents.fingerprint())),
            current: watch::Sender::new(Arc::new(config)),
            files,
        })))
    }

    /// Reads the files again.
    pub async fn reload(&self) {
        let contents = Contents::read(&self.0.files).await;
        self.note(contents.as_ref().ok().map(Contents::fingerprint));
        self.apply(contents);
    }

    /// Reads the files again whenever they have changed; never returns.
    pub(super) async fn follow_files(&self) -> Infallible {
        let tls = self.clone();
        keep_running("TLS files", async move || {
            loop {
                sleep(LOOK_INTERVAL).await;
                let contents = Contents::read(&tls.0.files).await;
                if tls.note(contents.as_ref().ok().map(Contents::fingerprint)) {
                    tls.apply(contents);
                }
            }
        })
        .await
    }

    /// For the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0.current.borrow()))
    }

    /// Whether this is not what was seen before.
    fn note(&self, fingerprint: Option<Fingerprint>) -> bool {
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *seen, fingerprint) != fingerprint
    }

    fn apply(&self, contents: anyhow::Result<Contents>) {
        match contents.and_then(|contents| contents.config(&self.0.files)) {
            Ok(config) => {
                self.0.current.send_replace(Arc::new(config));
                tracing::info!(cert = %self.0.files.cert.display(), "TLS files read again");
            }
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "TLS files cannot be used, keeping the former ones"
            ),
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.0.files).finish()
    }
}

/// What the files hold.
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Vec<u8>,
}

impl Contents {
    async fn read(files: &TlsFiles) -> anyhow::Result<Self> {
        Ok(Self {
            cert: read(&files.cert).await?,
            key: read(&files.key).await?,
            client_ca: match &files.client_ca {
                Some((path, _)) => read(path).await?,
                None => Vec::new(),
            },
        })
    }

    fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        for content in [&self.cert, &self.key, &self.client_ca] {
            hash.update(Sha256::digest(content));
        }
        hash.finalize().into()
    }

    fn config(&self, files: &TlsFiles) -> anyhow::Result<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .with_context(|| format!("{} holds no private key", files.key.display()))?;
        let verifier = self.client_verifier(files, &provider)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(&files.cert, &self.cert)?, key)
            .with_context(|| {
                format!(
                    "the certificate in {} and the key in {} do not go together",
                    files.cert.display(),
                    files.key.display()
                )
            })?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    fn client_verifier(
        &self,
        files: &TlsFiles,
        provider: &Arc<CryptoProvider>,
    ) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
        let Some((path, auth)) = &files.client_ca else {
            return Ok(WebPkiClientVerifier::no_client_auth());
        };
        let mut roots = RootCertStore::empty();
        for authority in certificates(path, &self.client_ca)? {
            roots
                .add(authority)
                .with_context(|| format!("{} holds a certificate that cannot be used", path.display()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        Ok(match auth {
            ClientAuth::Optional => verifier.allow_unauthenticated().build()?,
            ClientAuth::Required => verifier.build()?,
        })
    }
}

async fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    tokio::fs::read(path)
        .await
        .with_context(|| format!("{} cannot be read", path.display()))
}

fn certificates(path: &Path, pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} is no PEM file", path.display()))?;
    ensure!(
        !certificates.is_empty(),
        "{} holds no certificate",
        path.display()
    );
    Ok(certificates)
}
