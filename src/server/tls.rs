//! Configures TLS from PEM files, which are reloaded while the server runs.
//!
//! New connections use the configuration that was loaded last; open connections are not affected. If the
//! files cannot be used, the previous configuration stays in use.

use std::convert::Infallible;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use parking_lot::Mutex;
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

use crate::config::{ClientAuth, TlsFiles};
use crate::panics::keep_running;

/// Interval of the checks for changed files.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The ALPN names of the protocols, the preferred one first.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The TLS configuration of new connections. Cheap to clone; a reload changes all clones.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    files: TlsFiles,
    current: watch::Sender<Arc<ServerConfig>>,
    /// Fingerprint of the files when they were last read, usable or not; `None` if they could not be read.
    last_seen: Mutex<Option<Fingerprint>>,
}

type Fingerprint = [u8; 32];

impl Tls {
    /// Loads the files.
    ///
    /// # Errors
    /// When a file cannot be read or has the wrong content; the message names it.
    pub async fn open(files: TlsFiles) -> anyhow::Result<Self> {
        let contents = Contents::read(&files).await?;
        let config = contents.config(&files)?;
        Ok(Self(Arc::new(Shared {
            last_seen: Mutex::new(Some(contents.fingerprint())),
            current: watch::Sender::new(Arc::new(config)),
            files,
        })))
    }

    /// Reloads the files.
    pub async fn reload(&self) {
        let contents = Contents::read(&self.0.files).await;
        self.update_fingerprint(contents.as_ref().ok().map(Contents::fingerprint));
        self.apply(contents);
    }

    /// Reloads the files whenever their contents have changed; never returns.
    pub(super) async fn follow_files(&self) -> Infallible {
        let tls = self.clone();
        keep_running("TLS files", async move || {
            loop {
                sleep(CHECK_INTERVAL).await;
                let contents = Contents::read(&tls.0.files).await;
                if tls.update_fingerprint(contents.as_ref().ok().map(Contents::fingerprint)) {
                    tls.apply(contents);
                }
            }
        })
        .await
    }

    /// Returns an acceptor with the current configuration.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.0.current.borrow()))
    }

    /// Stores the fingerprint; returns true if it differs from the last one.
    fn update_fingerprint(&self, fingerprint: Option<Fingerprint>) -> bool {
        std::mem::replace(&mut *self.0.last_seen.lock(), fingerprint) != fingerprint
    }

    fn apply(&self, contents: anyhow::Result<Contents>) {
        match contents.and_then(|contents| contents.config(&self.0.files)) {
            Ok(config) => {
                self.0.current.send_replace(Arc::new(config));
                tracing::info!(cert = %self.0.files.cert.display(), "TLS files reloaded");
            }
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "TLS files cannot be used, keeping the previous ones"
            ),
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.0.files).finish()
    }
}

/// The contents of the files.
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
            .with_context(|| format!("{} contains no private key", files.key.display()))?;
        let verifier = self.client_verifier(files, &provider)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates(&files.cert, &self.cert)?, key)
            .with_context(|| {
                format!(
                    "the certificate in {} and the key in {} do not match",
                    files.cert.display(),
                    files.key.display()
                )
            })?;
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
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
                .with_context(|| format!("{} contains an unusable certificate", path.display()))?;
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
        .with_context(|| format!("cannot read {}", path.display()))
}

fn certificates(path: &Path, pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} is not a PEM file", path.display()))?;
    ensure!(
        !certificates.is_empty(),
        "{} contains no certificate",
        path.display()
    );
    Ok(certificates)
}
