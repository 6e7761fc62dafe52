//! Certificates for servers that tests check, and an issuer to sign them.

#![allow(dead_code, clippy::unwrap_used)] // Each test binary uses a part; none of it runs outside tests.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use lb_userspace::config::Tls;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

/// The server that is asked for.
pub(crate) const NAME: &str = "www.example.test";

pub(crate) type Issuer = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn issuer(name: &str) -> Issuer {
    let mut wanted = CertificateParams::new(Vec::new()).unwrap();
    wanted.distinguished_name.push(DnType::CommonName, name);
    wanted.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(wanted, KeyPair::generate().unwrap()).unwrap()
}

/// The time in so many days, and an hour, so that the days are whole while the test runs.
pub(crate) fn in_days(days: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(days * 86_400 + 3_600)
}

/// What a certificate for a name or an address should be, that ends in so many days.
pub(crate) fn ending(name: &str, days: u64) -> CertificateParams {
    let mut wanted = CertificateParams::new(vec![name.to_owned()]).unwrap();
    wanted.not_after = in_days(days).into();
    wanted
}

/// One that has ended.
pub(crate) fn expired(name: &str) -> CertificateParams {
    let mut wanted = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (wanted.not_before, wanted.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    wanted
}

/// A check that asks for [`NAME`] and trusts the issuers in a file.
pub(crate) fn trusting(ca_file: &Path) -> Tls {
    Tls { server_name: Some(NAME.to_owned()), ca_file: Some(ca_file.to_owned()), verify: true }
}

/// A check that asks for [`NAME`] and takes any certificate.
pub(crate) fn careless() -> Tls {
    Tls { server_name: Some(NAME.to_owned()), ca_file: None, verify: false }
}
