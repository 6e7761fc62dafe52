//! A zone's primary by every address that may be tried.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use super::{Keys, Primary, UpdateError};
use crate::core::records::Contents;

/// The addresses of a zone's primary, in the order in which they are tried.
#[derive(Debug)]
pub struct Primaries {
    zone: Arc<str>,
    all: Vec<Primary>,
}

impl Primaries {
    /// Reads the keys. Nothing is sent yet.
    ///
    /// # Errors
    /// When the key file cannot be used, or the zone's name is no DNS name.
    pub fn open(
        addresses: &[SocketAddr],
        zone: &Arc<str>,
        key_file: &Path,
    ) -> Result<Primaries, UpdateError> {
        let keys = Arc::new(Keys::read(key_file)?);
        let all = addresses.iter().map(|&address| Primary::new(address, zone, keys.clone()));
        Ok(Primaries { zone: zone.clone(), all: all.collect::<Result<_, _>>()? })
    }

    /// What the first one that answers has, as [`Primary::read`]; and which one that is, for what follows from it.
    ///
    /// # Errors
    /// That of the first one, when none answers.
    pub async fn read(
        &self,
        names: &[Arc<str>],
        texts: &[Arc<str>],
        limit: Duration,
    ) -> Result<(&Primary, Contents), UpdateError> {
        let mut failed = None;
        for primary in &self.all {
            match primary.read(names, texts, limit).await {
                Ok(contents) => return Ok((primary, contents)),
                Err(error) => drop(failed.get_or_insert(error)),
            }
        }
        Err(failed.unwrap_or_else(|| UpdateError::NoPrimary(self.zone.to_string())))
    }
}
