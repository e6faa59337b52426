//! Hosts and cables: network namespaces and what joins them.
//!
//! Invariant: a lab has names that no other has, and is gone when it is dropped.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where administrators' tools are, also for who is none.
const TOOLS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/bin"];

/// Some hosts, each in a network namespace of its own.
pub(crate) struct Lab {
    number: u32,
    hosts: Vec<&'static str>,
    switches: Vec<String>,
}

/// A network: a switch that joins hosts.
#[derive(Copy, Clone)]
pub(crate) struct Net(usize);

impl Lab {
    pub(crate) fn new(hosts: &[&'static str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            // Where `ip` keeps the names of namespaces; this hides the machine's.
            run("mount", "-t tmpfs antiphon /run");
        }
        let lab = Self { number, hosts: hosts.to_vec(), switches: Vec::new() };
        for host in hosts {
            run("ip", &format!("netns add {}", lab.full_name(host)));
            lab.on(host, "ip link set lo up");
        }
        lab
    }

    fn full_name(&self, host: &str) -> String {
        format!("{host}{}", self.number)
    }

    /// A network that joins nobody yet. It forwards frames and has no address.
    pub(crate) fn net(&mut self) -> Net {
        let net = Net(self.switches.len());
        let switch = format!("sw{}x{}", self.number, net.0);
        run("ip", &format!("link add {switch} type bridge mcast_snooping 0"));
        run("ip", &format!("link set {switch} up"));
        self.switches.push(switch);
        net
    }

    /// Gives a host an interface `eth<n>` in a network, with addresses as `ip` takes them.
    pub(crate) fn plug(&self, host: &str, net: Net, addresses: &[&str]) {
        let (switch, full) = (&self.switches[net.0], self.full_name(host));
        let (here, there) = (format!("{full}p{}", net.0), format!("eth{}", net.0));
        run("ip", &format!("link add {here} type veth peer name {there} netns {full}"));
        run("ip", &format!("link set {here} master {switch} up"));
        // Addresses of the link are given, not made up; nobody has to wait until they are known to be free.
        self.on(host, &format!("ip link set {there} addrgenmode none"));
        self.on(host, &format!("ip link set {there} up"));
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            self.on(host, &format!("ip addr add {address} dev {there} {nodad}"));
        }
    }

    pub(crate) fn route(&self, host: &str, by: &str) {
        self.on(host, &format!("ip route add default via {by}"));
    }

    /// Has a host pass packets on between its networks.
    pub(crate) fn forward(&self, host: &str) {
        self.on(host, "sysctl -q -w net.ipv4.ip_forward=1");
    }

    /// Gives a host's packet filter rules; in them, chains are as `nft` writes them.
    pub(crate) fn filter(&self, host: &str, rules: &str) {
        let mut command = self.command(host, "nft");
        check(command.arg(rules), "nft");
    }

    /// Runs a tool on a host.
    pub(crate) fn on(&self, host: &str, line: &str) {
        let mut words = line.split_whitespace();
        let mut command = self.command(host, words.next().expect("a tool"));
        check(command.args(words), line);
    }

    /// A program that will run on a host.
    pub(crate) fn command(&self, host: &str, program: &str) -> Command {
        let mut command = tool("ip");
        command.args(["netns", "exec", &self.full_name(host), program]);
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // All of it goes with the namespaces of this process.
            return;
        }
        for host in &self.hosts {
            run("ip", &format!("netns del {}", self.full_name(host)));
        }
        for switch in &self.switches {
            run("ip", &format!("link del {switch}"));
        }
    }
}

/// Whether this machine has a tool.
pub(crate) fn has(name: &str) -> bool {
    let tried = tool(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    tried.is_ok()
}

fn tool(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command.env("PATH", [&TOOLS[..], &[&path]].concat().join(":"));
    command
}

fn run(name: &str, arguments: &str) {
    check(tool(name).args(arguments.split_whitespace()), arguments);
}

#[track_caller]
fn check(command: &mut Command, what: &str) {
    let done = command.output().expect("the tool was looked for before");
    assert!(done.status.success(), "{what}: {}", String::from_utf8_lossy(&done.stderr));
}
