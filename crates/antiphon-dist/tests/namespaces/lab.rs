//! Hosts and networks: network namespaces, and the bridges that join them.
//!
//! Invariant: the names of a lab are unique in this process, and its namespaces and bridges are deleted when it is
//! dropped.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The folders of administration tools, which are not in every user's `PATH`.
const TOOLS: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/bin"];

/// Hosts, each in a network namespace of its own.
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
            // `ip` keeps the names of namespaces in this folder; the mount hides those of the machine.
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

    /// A new network without hosts. It forwards frames and has no address.
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
        let (port, interface) = (format!("{full}p{}", net.0), format!("eth{}", net.0));
        run("ip", &format!("link add {port} type veth peer name {interface} netns {full}"));
        run("ip", &format!("link set {port} master {switch} up"));
        // The link-local addresses are those in `addresses`, and the system does not check that they are free.
        self.on(host, &format!("ip link set {interface} addrgenmode none"));
        self.on(host, &format!("ip link set {interface} up"));
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            self.on(host, &format!("ip addr add {address} dev {interface} {nodad}"));
        }
    }

    /// From now on, the switch of a network sends no multicast to a host.
    pub(crate) fn hide_multicast(&self, host: &str, net: Net) {
        let port = format!("{}p{}", self.full_name(host), net.0);
        run("ip", &format!("link set {port} type bridge_slave mcast_flood off"));
    }

    /// Sets the default gateway of a host.
    pub(crate) fn route(&self, host: &str, gateway: &str) {
        self.on(host, &format!("ip route add default via {gateway}"));
    }

    /// Makes a host forward packets between its networks.
    pub(crate) fn forward(&self, host: &str) {
        self.on(host, "sysctl -q -w net.ipv4.ip_forward=1");
    }

    /// Adds rules to the packet filter of a host, in the syntax of `nft`.
    pub(crate) fn filter(&self, host: &str, rules: &str) {
        let mut command = self.command(host, "nft");
        check(command.arg(rules), "nft");
    }

    /// Runs a tool on a host.
    pub(crate) fn on(&self, host: &str, line: &str) {
        let mut words = line.split_whitespace();
        let mut command = self.command(host, words.next().expect("the line names a tool"));
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
            // The system deletes everything with the namespaces of this process.
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
    let done = command.output().expect("the tool exists");
    assert!(done.status.success(), "{what}: {}", String::from_utf8_lossy(&done.stderr));
}
