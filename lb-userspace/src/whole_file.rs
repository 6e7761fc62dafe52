//! Files that are there whole, whatever happens while they are written.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use tempfile::NamedTempFile;

/// Writes a new file, which nobody but its owner may read, and puts it in the old one's place. Makes its directory.
///
/// # Errors
/// It cannot be written; the old one is as it was.
pub(crate) fn write(file: &Path, content: &[u8]) -> io::Result<()> {
    let directory = file.parent().ok_or(io::ErrorKind::InvalidFilename)?;
    fs::create_dir_all(directory)?;
    let mut new = NamedTempFile::new_in(directory)?;
    new.write_all(content)?;
    new.as_file().sync_all()?;
    new.persist(file)?;
    // The new name is on the disk when the directory is.
    fs::File::open(directory)?.sync_all()
}
