//! The two processes of one measurement.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const PARTNER: &str = "ANTIPHON_BENCH_PARTNER";
const SECRET: &str = "ANTIPHON_BENCH_SECRET";
const PEM: &str = "ANTIPHON_BENCH_PEM";

/// What the two share.
pub(crate) struct Shared {
    pub(crate) secret: String,
    /// A certificate and its key.
    pub(crate) pem: PathBuf,
}

/// Runs `partner` if this process is the partner, else starts one, and `measure`s with it.
pub(crate) fn run(
    partner: impl FnOnce(Shared, &dyn Fn(SocketAddr)),
    measure: impl FnOnce(SocketAddr, Shared) -> Vec<f64>,
) -> Vec<f64> {
    if std::env::var_os(PARTNER).is_some() {
        let secret = std::env::var(SECRET).expect("who starts a partner tells it the secret");
        let pem = std::env::var_os(PEM).expect("and where the certificate is").into();
        partner(Shared { secret, pem }, &|at| println!("{at}"));
        std::process::exit(0);
    }
    let secret = antiphon::prelude::Secret::generate().expect("the system has random bytes");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let shared = Shared { secret: secret.reveal().to_owned(), pem: certificate(folder.path()) };
    let (mut child, at) = start_partner(&shared);
    let values = measure(at, shared);
    // It is done when its partner is.
    child.kill().and_then(|()| child.wait()).expect("a child of this process");
    values
}

/// One certificate for both, with its key.
fn certificate(folder: &Path) -> PathBuf {
    let made = rcgen::generate_simple_self_signed(Vec::new()).expect("sound parameters");
    let pem = folder.join("shared.pem");
    let text = made.signing_key.serialize_pem() + &made.cert.pem();
    std::fs::write(&pem, text).expect("a temporary file can be written");
    // Nodes take no key that others may read.
    #[cfg(unix)]
    std::fs::set_permissions(&pem, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("the file is this program's");
    pem
}

fn start_partner(shared: &Shared) -> (Child, SocketAddr) {
    let own = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(own);
    command
        .args(std::env::args_os().skip(1))
        .env(PARTNER, "1")
        .env(SECRET, &shared.secret)
        .env(PEM, &shared.pem)
        .stdout(Stdio::piped());
    let mut child = command.spawn().expect("this very program starts");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut line).expect("the partner prints where it listens");
    let at = line.trim().parse().expect("the partner prints an address");
    (child, at)
}

/// The middle one and the 99th of a hundred, in microseconds, without the first tenth.
pub(crate) fn percentiles(nanos: &[u64]) -> Vec<f64> {
    let mut warm = nanos[nanos.len() / 10..].to_vec();
    warm.sort_unstable();
    let at = |share: f64| warm[(warm.len() as f64 * share) as usize] as f64 / 1e3;
    vec![at(0.5), at(0.99)]
}

/// Messages a second since `begun`.
pub(crate) fn rate(messages: u64, begun: Instant) -> Vec<f64> {
    vec![messages as f64 / begun.elapsed().as_secs_f64()]
}
