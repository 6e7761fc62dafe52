//! Files that are there whole, whatever happens while they are written.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, fchown},
    path::Path,
};

use tempfile::NamedTempFile;

/// Writes a new file and puts it in the old one's place. Whoever could read that can read this; without one nobody but its
/// owner can. Makes its directory.
///
/// # Errors
/// It cannot be written; the old one is as it was.
pub(crate) fn write(file: &Path, content: &[u8]) -> io::Result<()> {
    // A symbolic link stays one.
    let file = &fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let directory = match file.parent().ok_or(io::ErrorKind::InvalidFilename)? {
        here if here.as_os_str().is_empty() => Path::new("."),
        directory => directory,
    };
    fs::create_dir_all(directory)?;
    let mut new = NamedTempFile::new_in(directory)?;
    new.write_all(content)?;
    if let Ok(old) = fs::metadata(file) {
        if old.gid() != new.as_file().metadata()?.gid() {
            fchown(new.as_file(), None, Some(old.gid()))?;
        }
        new.as_file().set_permissions(old.permissions())?;
    }
    new.as_file().sync_all()?;
    new.persist(file)?;
    // The new name is on the disk when the directory is.
    fs::File::open(directory)?.sync_all()
}
