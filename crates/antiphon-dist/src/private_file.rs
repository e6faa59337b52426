//! Files that contain keys or secrets.

use std::fs::File;
use std::io::{self, Read};

use zeroize::Zeroizing;

/// The most bytes of such a file.
const BYTES_MAX: u64 = 4 << 20;

/// Reads a file. The buffer is wiped when it is dropped.
pub(crate) fn read(file: &File) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::new());
    // The whole size is reserved at once: a buffer that grows would leave its old memory unwiped.
    let bytes = file.metadata()?.len();
    text.reserve_exact(usize::try_from(bytes.min(BYTES_MAX)).unwrap_or_default() + 1);
    file.take(BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the file is larger than 4 MiB"));
    }
    Ok(text)
}

/// The permission bits of a file that other users of this machine may read or write; `None` if only its owner may. It
/// checks the open file, since the path may name another file by now.
#[cfg(unix)]
pub(crate) fn exposed_mode(file: &File) -> io::Result<Option<u32>> {
    use std::os::unix::fs::PermissionsExt;

    let mode = file.metadata()?.permissions().mode() & 0o777;
    Ok((mode & 0o077 != 0).then_some(mode))
}

#[cfg(not(unix))]
pub(crate) fn exposed_mode(_: &File) -> io::Result<Option<u32>> {
    Ok(None)
}
