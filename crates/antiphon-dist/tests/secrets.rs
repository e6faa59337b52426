//! Secrets from files and the environment: reading, refusals, and that no output shows them.

use std::path::PathBuf;

use antiphon_dist::secret::{EnvironmentFault, FileFault, SecretError, from_env, from_file};
use antiphon_dist::system_entropy;
use antiphon_wire::Keyring;

/// A temporary file that is removed on drop.
struct TempSecretFile(PathBuf);

impl TempSecretFile {
    fn new(name: &str, content: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("antiphon-{}-{name}", std::process::id()));
        std::fs::write(&path, content).expect("a temporary file can be written");
        let file = Self(path);
        file.set_mode(0o600);
        file
    }

    #[cfg(unix)]
    fn set_mode(&self, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&self.0, mode).expect("the file is this test's");
    }

    #[cfg(not(unix))]
    fn set_mode(&self, _: u32) {}

    fn fault(&self) -> FileFault {
        match from_file(&self.0) {
            Err(SecretError::File { file, fault }) if file == self.0 => fault,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for TempSecretFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).expect("the file is this test's");
    }
}

#[test]
fn file_is_read_without_one_line_end() {
    for (at, (content, expected)) in [
        ("hush", "hush"),
        ("hush\n", "hush"),
        ("hush\r\n", "hush"),
        ("hush\n\n", "hush\n"),
        (" hush ", " hush "),
    ]
    .into_iter()
    .enumerate()
    {
        let file = TempSecretFile::new(&format!("read-{at}"), content.as_bytes());
        let secret = from_file(&file.0).expect("it is readable");
        assert_eq!(secret.reveal(), expected);
    }
}

#[test]
fn file_without_secret_is_refused_with_reason() {
    assert!(matches!(TempSecretFile::new("empty", b"").fault(), FileFault::Empty));
    assert!(matches!(TempSecretFile::new("line", b"\n").fault(), FileFault::Empty));
    assert!(matches!(TempSecretFile::new("bytes", b"\xff\xfe").fault(), FileFault::NotText));
    assert!(matches!(TempSecretFile::new("long", &[b'x'; 4097]).fault(), FileFault::TooLong));
    let missing = from_file("no such file").map(|_| ());
    assert!(matches!(missing, Err(SecretError::File { fault: FileFault::Unreadable(_), .. })));
}

#[cfg(unix)]
#[test]
fn file_others_may_access_is_refused_with_remedy() {
    let file = TempSecretFile::new("exposed", b"hush");
    for mode in [0o644, 0o602, 0o601, 0o640, 0o620] {
        file.set_mode(mode);
        assert!(matches!(file.fault(), FileFault::Exposed { mode: found } if found == mode));
    }
    assert!(file.fault().to_string().contains("chmod 600"));
    file.set_mode(0o400);
    let secret = from_file(&file.0).expect("only its owner may read it");
    assert_eq!(secret.reveal(), "hush");
}

#[test]
fn variable_is_read_or_refused_by_name() {
    // Cargo sets this variable for every test.
    let name = from_env("CARGO_PKG_NAME").expect("cargo sets it");
    assert_eq!(name.reveal(), "antiphon-dist");
    match from_env("ANTIPHON_NO_SUCH_VARIABLE") {
        Err(SecretError::Environment { variable, fault: EnvironmentFault::Unset }) => {
            assert_eq!(variable, "ANTIPHON_NO_SUCH_VARIABLE");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn formatted_values_hide_secret() {
    let file = TempSecretFile::new("shown", b"hushhush\n");
    let secret = from_file(&file.0).expect("it is readable");
    let ring = Keyring::new(1, secret.clone()).accepting(2, "hushhush2".into());
    let profile = antiphon_wire::Profile {
        node: antiphon_wire::NodeId::from_bits(1),
        name: "n".into(),
        locations: Vec::new(),
        suites: vec![antiphon_wire::Suite::Hmac],
        keyring: ring.clone(),
        flags: 0,
        limits: Default::default(),
    };
    file.set_mode(0o644);
    let exposed = from_file(&file.0).expect_err("others may read it");
    let entropy = system_entropy().expect("the system has random numbers");
    let resume_state = antiphon_wire::ResumeState::unknown(1);
    let handshake = antiphon_wire::Handshake::dial(&profile, entropy, resume_state, None, &mut Vec::new());
    let shown = format!(
        "{secret:?} {ring:?} {ring:#?} {:?} {profile:?} {handshake:?} {exposed} {exposed:?}",
        ring.datagram_key()
    );
    assert!(shown.contains("Secret"), "{shown}");
    assert!(!shown.contains("hushhush"), "{shown}");
}
