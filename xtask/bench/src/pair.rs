//! The two processes of one measurement.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const PARTNER: &str = "ANTIPHON_BENCH_PARTNER";
const SECRET: &str = "ANTIPHON_BENCH_SECRET";
const PEM: &str = "ANTIPHON_BENCH_PEM";

/// The data that both processes share.
pub(crate) struct Shared {
    pub(crate) secret: String,
    /// A certificate and its key.
    pub(crate) pem: PathBuf,
}

/// In the partner process runs `partner`, which reports its address. Otherwise starts a partner, and runs `measure`.
pub(crate) fn run(
    partner: impl FnOnce(Shared, &dyn Fn(SocketAddr)),
    measure: impl FnOnce(SocketAddr, Shared) -> Vec<f64>,
) -> Vec<f64> {
    if std::env::var_os(PARTNER).is_some() {
        let secret = std::env::var(SECRET).expect("the measuring process sets the secret");
        let pem =
            std::env::var_os(PEM).expect("the measuring process sets the path of the certificate").into();
        partner(Shared { secret, pem }, &|at| println!("{at}"));
        std::process::exit(0);
    }
    let secret = antiphon::secret::generate().expect("the system has random bytes");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let shared = Shared { secret: secret.reveal().to_owned(), pem: certificate(folder.path()) };
    let (mut child, at) = start_partner(&shared);
    let values = measure(at, shared);
    child.kill().and_then(|()| child.wait()).expect("the partner is a child of this process");
    values
}

/// Writes one certificate for both nodes, with its key.
fn certificate(folder: &Path) -> PathBuf {
    let made = rcgen::generate_simple_self_signed(Vec::new()).expect("the parameters are valid");
    let pem = folder.join("shared.pem");
    let text = made.signing_key.serialize_pem() + &made.cert.pem();
    std::fs::write(&pem, text).expect("a temporary file can be written");
    // A node refuses a key that other users may read.
    #[cfg(unix)]
    std::fs::set_permissions(&pem, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("this program owns the file");
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
    let mut child = command.spawn().expect("this program can be started again");
    let mut line = String::new();
    let stdout = child.stdout.take().expect("the output is piped");
    BufReader::new(stdout).read_line(&mut line).expect("the partner prints its address");
    let at = line.trim().parse().expect("the printed line is an address");
    (child, at)
}

/// The median and the 99th percentile, in microseconds, without the first tenth of the values.
pub(crate) fn percentiles(nanos: &[u64]) -> Vec<f64> {
    let mut warm = nanos[nanos.len() / 10..].to_vec();
    warm.sort_unstable();
    let at = |fraction: f64| warm[(warm.len() as f64 * fraction) as usize] as f64 / 1e3;
    vec![at(0.5), at(0.99)]
}

/// Messages a second since `started`.
pub(crate) fn rate(messages: u64, started: Instant) -> Vec<f64> {
    vec![messages as f64 / started.elapsed().as_secs_f64()]
}
