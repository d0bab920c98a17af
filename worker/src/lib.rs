//! What runs jobs: the provider seam and, around it, the pipeline.
//!
//! Only `provider` names `reqwest`.

pub mod provider;

/// Installs the process's TLS provider, `ring`; call it first in `main` and in each test that builds a client.
///
/// A second call changes nothing (docs/adr/0002).
pub fn install_tls() {
    // An error only says that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
