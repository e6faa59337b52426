//! What two nodes say to each other about files: ordinary messages of hidden actors.
//!
//! The sender asks the other node's keeper; a receiver, started for this one file, answers. Then the sender sends what the
//! receiver's disk has room for: at most [`WINDOW_BYTES`] that are not reported as written.

use antiphon_sched::{ActorId, Addr, Bytes, LoopRef, ReplyTo};
use serde::{Deserialize, Serialize};

use super::outcome::{FileRefused, FileStat};
use crate::cx::{Named, sealed};
use crate::from_node::FromNode;
use crate::node::Space;

/// The name of the keeper, in the space of services.
pub(crate) const FILE_SERVICE: &str = "files";
/// What may be under way to a receiver's disk.
pub(super) const WINDOW_BYTES: u64 = 1024 * 1024;
/// One chunk of a file.
pub(super) const CHUNK_BYTES: usize = 128 * 1024;

/// The keeper of a node's files, as it is located.
#[derive(Copy, Clone)]
pub(super) struct FileServiceName(pub(super) Addr<FromNode<ToFileService>>);

impl sealed::SealedName for FileServiceName {}

impl Named for FileServiceName {
    const SPACE: Space = Space::Service;

    fn tag(loop_ref: &mut LoopRef<'_>) -> &'static str {
        loop_ref.tag_of::<ToFileService>()
    }

    fn from_id(id: ActorId) -> Self {
        Self(Addr::of(id))
    }
}

/// To the keeper of a node's files.
#[derive(Serialize, Deserialize)]
pub(crate) enum ToFileService {
    /// A file is offered.
    Offer(FileOffer, ReplyTo<OfferAnswer>),
    /// A file that was received is to be deleted; `Ok(false)`: there is none.
    Delete(Vec<String>, ReplyTo<DeleteAnswer>),
}
antiphon_sched::wire!(ToFileService, "antiphon.files.keeper/1");

/// A file that somebody wants to send.
#[derive(Serialize, Deserialize)]
pub(crate) struct FileOffer {
    pub(super) path: Vec<String>,
    pub(super) stat: FileStat,
    pub(super) overwrite: bool,
    pub(super) sender: Addr<FromNode<ToSender>>,
    /// Milliseconds that the sender has; a later version may leave it out.
    #[serde(default)]
    pub(super) within: Option<u64>,
}

/// What became of an offer.
#[derive(Serialize, Deserialize)]
pub(crate) enum OfferAnswer {
    AlreadyThere,
    Different(FileStat),
    Refused(FileRefused),
    /// Send it there: all, or what comes after the first `have` bytes if these have this hash.
    Send {
        receiver: Addr<FromNode<ToReceiver>>,
        have: u64,
        hash: Bytes,
        window: u64,
    },
}
antiphon_sched::wire!(OfferAnswer, "antiphon.files.answer/1");

/// Whether a file was deleted; `false`: there was none.
#[derive(Serialize, Deserialize)]
pub(crate) struct DeleteAnswer(pub(super) Result<bool, FileRefused>);
antiphon_sched::wire!(DeleteAnswer, "antiphon.files.deleted/1");

/// To the receiver of one file.
#[derive(Serialize, Deserialize)]
pub(crate) enum ToReceiver {
    /// The first chunk will be the one at this offset: 0, or what the receiver has.
    Begin(u64),
    Chunk(Bytes),
    /// That was all of it; the hash of the whole file.
    End(Bytes),
    /// No more will come. `true`: what came is of no use.
    Abort(bool),
}
antiphon_sched::wire!(ToReceiver, "antiphon.files.receiver/1", compact);

/// To the sender of one file.
#[derive(Serialize, Deserialize)]
pub(crate) enum ToSender {
    /// So many bytes from the beginning are written.
    Written(u64),
    Stored,
    /// Somebody else put a different file there meanwhile.
    Different(FileStat),
    Failed(FileRefused),
}
antiphon_sched::wire!(ToSender, "antiphon.files.sender/1", compact);
