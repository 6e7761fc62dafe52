//! `tls`: a TLS handshake succeeds and the certificate is trusted. `https` and `grpcs` begin with it.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::{
            Resumption,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::ring,
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    },
};
use x509_parser::prelude::parse_x509_certificate;

use super::{Endpoints, Finding, Limit, io_detail, tcp};
use crate::{config::Tls, core::check::Code, unix_time::unix_seconds};

/// A certificate that ends sooner than this is worth a warning, in days.
const SOON: i64 = 21;

const DAY: i64 = 24 * 3_600;

/// What a check needs for every handshake; made by the first one.
#[derive(Debug, Default)]
pub struct Client(Option<Arc<ClientConfig>>);

/// A connection after its handshake.
pub(super) struct Shaken {
    pub(super) stream: TlsStream<TcpStream>,
    /// The certificate ends soon.
    pub(super) warning: Option<String>,
}

/// Connects, shakes hands and hangs up.
pub(super) async fn check(
    endpoints: &Endpoints<'_>,
    client: &mut Client,
    tls: &Tls,
    limit: Limit,
) -> Result<Finding, Finding> {
    let Shaken { stream, warning } = connect(endpoints, client, tls, None, limit).await?;
    let version =
        stream.get_ref().1.protocol_version().and_then(|version| version.as_str()).unwrap_or_default();
    Ok(Finding { warning, ..Finding::new(Code::L6Ok, version) })
}

/// Connects and shakes hands. Where a protocol follows, it is offered (its ALPN name, the same each time): a server that speaks
/// only others would refuse. On failure the finding is one of [`tcp::connect`]'s, L6TOUT or L6RSP.
pub(super) async fn connect(
    endpoints: &Endpoints<'_>,
    client: &mut Client,
    tls: &Tls,
    protocol: Option<&[u8]>,
    limit: Limit,
) -> Result<Shaken, Finding> {
    let config = client.config(tls, protocol)?;
    let stream = tcp::connect(endpoints, limit).await?;
    let address = ServerName::from(endpoints.target.ip());
    let named = tls.server_name.as_ref().and_then(|name| ServerName::try_from(name.clone()).ok());
    let name = named.unwrap_or(address);
    let handshake = TlsConnector::from(config).connect(name, stream);
    let stream = limit.or(Code::L6Tout, handshake).await?.map_err(|error| {
        if matches!(of_tls(&error), Some(rustls::Error::InvalidCertificate(_))) {
            // Others may be trusted by now.
            client.0 = None;
        }
        not_trusted(&error)
    })?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|all| all.first());
    let warning = certificate.and_then(|certificate| expiry(certificate, unix_seconds() as i64));
    Ok(Shaken { stream, warning })
}

impl Client {
    fn config(&mut self, tls: &Tls, protocol: Option<&[u8]>) -> Result<Arc<ClientConfig>, Finding> {
        if let Some(config) = &self.0 {
            return Ok(config.clone());
        }
        // It says something of this host only.
        let config = make(tls, protocol).map_err(|why| Finding::new(Code::Sockerr, why))?;
        Ok(self.0.insert(Arc::new(config)).clone())
    }
}

fn make(tls: &Tls, protocol: Option<&[u8]>) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = match tls.verify {
        true => builder.with_root_certificates(issuers(tls)?).with_no_client_auth(),
        false => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate))
            .with_no_client_auth(),
    };
    // A resumed session shows no certificate.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = protocol.into_iter().map(<[u8]>::to_vec).collect();
    Ok(config)
}

/// Whose certificates are trusted.
fn issuers(tls: &Tls) -> Result<Arc<RootCertStore>, String> {
    let Some(file) = &tls.ca_file else { return issuers_of_the_host() };
    let name = file.display();
    let unreadable = |error| format!("cannot read ca_file {name}: {error}");
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(unreadable)? {
        let certificate = certificate.map_err(unreadable)?;
        store.add(certificate).map_err(|error| format!("ca_file {name}: {error}"))?;
    }
    if store.is_empty() {
        return Err(format!("ca_file {name} has no certificate"));
    }
    Ok(Arc::new(store))
}

/// Those that this host trusts, as they were ten seconds ago at most. All checks share them: to read them takes milliseconds, they
/// are 100 kB or more, and thousands of backends may want them at once.
fn issuers_of_the_host() -> Result<Arc<RootCertStore>, String> {
    const FRESH: Duration = Duration::from_secs(10);
    static KNOWN: Mutex<Option<(Instant, Arc<RootCertStore>)>> = Mutex::new(None);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, store)) = known.as_ref().filter(|(read, _)| read.elapsed() < FRESH) {
        return Ok(store.clone());
    }
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        return Err("this host trusts no issuer of certificates; set ca_file, or verify = false".to_owned());
    }
    let store = Arc::new(store);
    *known = Some((Instant::now(), store.clone()));
    Ok(store)
}

/// What TLS itself says of the error of a handshake, if it was that.
fn of_tls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// What the error of a handshake tells.
fn not_trusted(error: &io::Error) -> Finding {
    let detail = match of_tls(error) {
        Some(rustls::Error::InvalidCertificate(why)) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet".to_owned()
            }
            CertificateError::UnknownIssuer => "its certificate is of no issuer that is trusted".to_owned(),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("its certificate is for another name: {why}")
            }
            why => format!("its certificate is not trusted: {why}"),
        },
        Some(rustls::Error::InvalidMessage(why)) => format!("does not speak TLS: {why:?}"),
        Some(rustls::Error::AlertReceived(alert)) => format!("refuses the handshake: {alert:?}"),
        Some(other) => other.to_string(),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "connection closed during the handshake".to_owned()
        }
        None => io_detail(error),
    };
    Finding::new(Code::L6Rsp, detail)
}

/// What is to be said of a certificate that ends soon, or has ended; `now` is in seconds since 1970.
fn expiry(certificate: &CertificateDer<'_>, now: i64) -> Option<String> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    let left = certificate.validity().not_after.timestamp() - now;
    match left / DAY {
        _ if left < 0 => Some("its certificate has expired".to_owned()),
        0 => Some("its certificate expires within a day".to_owned()),
        days if days < SOON => Some(format!("its certificate expires in {days} days")),
        _ => None,
    }
}

/// Takes any certificate, of versions that cannot be read here, too: the handshake shows that somebody speaks TLS, and no more is
/// wanted.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ECDSA_NISTP521_SHA512,
            SignatureScheme::ED25519,
            SignatureScheme::ED448,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA512,
            SignatureScheme::RSA_PKCS1_SHA1,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_that_end_soon_are_told() {
        let mut wanted = rcgen::CertificateParams::new(vec!["www.example.test".to_owned()]).unwrap();
        wanted.not_after = rcgen::date_time_ymd(2030, 1, 31);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = wanted.self_signed(&key).unwrap();
        let end = wanted.not_after.unix_timestamp();
        let told = |left: i64| expiry(certificate.der(), end - left);
        assert_eq!(told(SOON * DAY), None);
        assert_eq!(told(SOON * DAY - 1).as_deref(), Some("its certificate expires in 20 days"));
        assert_eq!(told(DAY - 1).as_deref(), Some("its certificate expires within a day"));
        assert_eq!(told(-1).as_deref(), Some("its certificate has expired"));
    }
}
