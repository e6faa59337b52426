//! Services: what channels, RCI and files are built on, and what programs build their own services on.
//!
//! A service is an ordinary actor. Order, credit, receipts and the end of a session are implemented once, below it. It uses
//! five more things:
//!
//! | a service | uses |
//! |---|---|
//! | has a name that peers locate | [`NodeRef::register`], [`ServiceAddr`] |
//! | needs the node that sent a message | [`FromNode`] |
//! | bounds what each peer uses of it | [`PeerQuota`] |
//! | is open to some peers only | [`NodeRef::allow`] |
//! | logs what peers can cause | [`NodeRef::may_log`], [`NodeRef::log_refused`] |
//!
//! The service keeps its state in its actor. What belongs to a peer ends by permits: the service monitors the actors of its
//! peers, and drops their [`Permit`](antiphon_sched::Permit)s when they end or their node is lost.
//!
//! A board that keeps the first texts of other nodes, at most two of each and a thousand in all:
//!
//! ```
//! use antiphon_dist::service::{FromNode, NodeRef, PeerQuota, ServiceAddr};
//! use antiphon_dist::{Config, LocateError, NetCx, Node};
//! use antiphon_sched::{Actor, Cx, Event, Permit, Step, receive, secs, stop};
//!
//! struct Board {
//!     quota: PeerQuota,
//!     texts: Vec<(String, Option<Permit>)>,
//! }
//!
//! impl Actor<FromNode<String>> for Board {
//!     fn step(
//!         &mut self,
//!         cx: &mut Cx<'_, FromNode<String>>,
//!         event: Event<FromNode<String>>,
//!     ) -> Step<FromNode<String>> {
//!         match event {
//!             Event::Start => {
//!                 let me = cx.addr();
//!                 NodeRef::of(cx.loop_ref()).register("board", me)?;
//!             }
//!             // The session shows which node sent the message. An address inside a message can name any node.
//!             Event::Message(FromNode { message, from: Some(peer), .. }) => match self.quota.take(peer) {
//!                 Ok(permit) => self.texts.push((message, Some(permit))),
//!                 // One line an hour for each peer.
//!                 Err(_) => NodeRef::of(cx.loop_ref()).log_refused(peer, "board", "writes more texts than it may"),
//!             },
//!             Event::Message(FromNode { message, from: None, .. }) => self.texts.push((message, None)),
//!             _ => {}
//!         }
//!         receive()
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut node = Node::new(Config { discover_peers: false, ..Config::default() })?;
//! node.set_up(|sched| sched.loop_ref().spawn_service(Board { quota: PeerQuota::with_total(1_000, 2), texts: Vec::new() }));
//! // An actor of this or of another node:
//! node.spawn(|cx: &mut Cx<Result<ServiceAddr<String>, LocateError>>, event| match event {
//!     Event::Start => {
//!         cx.locate("board", secs(5), |found| found);
//!         receive()
//!     }
//!     Event::Message(board) => {
//!         cx.send(board?, "hello".to_owned())?;
//!         stop()
//!     }
//!     _ => receive(),
//! });
//! node.run()?;
//! # Ok(())
//! # }
//! ```

mod address;
pub use address::ServiceAddr;

pub(crate) mod channel;

mod encoding;

pub(crate) mod file;

mod from_node;
pub use from_node::FromNode;

mod node_ref;
pub use node_ref::NodeRef;

mod panic_guard;

mod peer_quota;
pub use peer_quota::PeerQuota;

pub(crate) mod rci;

#[cfg(test)]
mod vectors;

use std::sync::Arc;

use antiphon_sched::{Loop, SettingError, secs};

use crate::access::{AccessError, AccessPolicy};
use crate::config::Config;
use crate::error::NodeError;
use crate::node::{ServiceState, complete_if_open};
use file::{Disk, SystemDisk};

/// Checks the configuration of the services.
pub(crate) fn check(config: &Config) -> Result<(), NodeError> {
    SettingError::check("partial_files_keep", config.partial_files_keep, secs(0)..=secs(3650 * 24 * 3600))?;
    SettingError::check("transfers_max", config.transfers_max, 0..=4096)?;
    SettingError::check("rci_actors_max", config.rci_actors_max, 0..=60_000)?;
    let access = [&config.rci_access, &config.files_access];
    if config.certfile.is_none() && access.into_iter().any(AccessPolicy::needs_tls) {
        return Err(AccessError::NoTls.into());
    }
    Ok(())
}

/// Starts the services of a node. Files are on the disks of the system.
pub(crate) fn start(config: &Config, sched: &mut Loop) -> Result<(), NodeError> {
    start_on(Arc::new(SystemDisk), config, sched)
}

/// As [`start`], with files on another disk.
fn start_on(disk: Arc<dyn Disk>, config: &Config, sched: &mut Loop) -> Result<(), NodeError> {
    channel::start(config, &mut sched.loop_ref());
    rci::start(config, &mut sched.loop_ref());
    file::start(disk, config, sched)
}
