//! The messages that two nodes exchange about files: ordinary messages of service actors.
//!
//! The sender offers its file to the file service of the other node. That service starts a receiver for this one file, and
//! the receiver answers the offer. Then the sender sends chunks: at most [`WINDOW_BYTES`] that are not yet reported as
//! written.

use antiphon_sched::{Addr, Bytes, ReplyTo};
use serde::{Deserialize, Serialize};

use super::outcome::{FileRefused, FileStat};
use crate::service::FromNode;

/// The name of the file service, in the name space of services.
pub(crate) const FILE_SERVICE: &str = "files";
/// The most bytes that may be sent and not yet written to the receiver's disk.
pub(super) const WINDOW_BYTES: u64 = 1024 * 1024;
/// The size of a chunk, except for the last one of a file.
pub(super) const CHUNK_BYTES: usize = 128 * 1024;

/// A message to a node's file service.
#[derive(Serialize, Deserialize)]
pub(crate) enum ToFileService {
    /// Offers a file.
    Offer(FileOffer, ReplyTo<OfferAnswer>),
    /// Deletes a file that the node received.
    Delete(Vec<String>, ReplyTo<DeleteAnswer>),
}
antiphon_sched::wire!(ToFileService, "antiphon.files.service/1");

/// The description of a file that a sender offers.
#[derive(Serialize, Deserialize)]
pub(crate) struct FileOffer {
    pub(super) path: Vec<String>,
    pub(super) stat: FileStat,
    pub(super) overwrite: bool,
    pub(super) sender: Addr<FromNode<ToSender>>,
    /// The timeout of the transfer in milliseconds. A later version may leave it out.
    #[serde(default)]
    pub(super) within: Option<u64>,
}

/// The answer to an offer.
#[derive(Serialize, Deserialize)]
pub(crate) enum OfferAnswer {
    AlreadyThere,
    Different(FileStat),
    Refused(FileRefused),
    /// The receiver accepts the file. The sender may skip the first `have` bytes if their hash is `hash`; else it sends all.
    Send {
        receiver: Addr<FromNode<ToReceiver>>,
        have: u64,
        hash: Bytes,
        window: u64,
    },
}
antiphon_sched::wire!(OfferAnswer, "antiphon.files.answer/1");

/// The answer to a deletion; `Ok(false)` if there was no such file.
#[derive(Serialize, Deserialize)]
pub(crate) struct DeleteAnswer(pub(super) Result<bool, FileRefused>);
antiphon_sched::wire!(DeleteAnswer, "antiphon.files.deleted/1");

/// A message to the receiver of one file.
#[derive(Serialize, Deserialize)]
pub(crate) enum ToReceiver {
    /// The first chunk starts at this offset: 0, or the number of bytes that the receiver has.
    Begin(u64),
    Chunk(Bytes),
    /// All chunks are sent; holds the hash of the whole file.
    End(Bytes),
    /// The sender sends no more. `true`: the received bytes are useless.
    Abort(bool),
}
antiphon_sched::wire!(ToReceiver, "antiphon.files.receiver/1");

/// A message to the sender of one file.
#[derive(Serialize, Deserialize)]
pub(crate) enum ToSender {
    /// The number of bytes, from the beginning of the file, that are written.
    Written(u64),
    /// The file is whole, in its place and on disk.
    Stored,
    /// A different file appeared at the target during the transfer.
    Different(FileStat),
    Failed(FileRefused),
}
antiphon_sched::wire!(ToSender, "antiphon.files.sender/1");

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::service::file::PathError;
    use crate::service::vectors::{ServiceVectors, asker, reply, server};

    pub(crate) fn add_vectors(vectors: &mut ServiceVectors) {
        let stat = FileStat { size: 5, seconds: -1, nanos: 2, permissions: 0o644 };
        let path = || vec!["reports".to_owned(), "a".to_owned()];
        let offer = |within| {
            let sender = Addr::of(asker(7));
            FileOffer { path: path(), stat, overwrite: false, sender, within }
        };
        vectors.add("offer", &ToFileService::Offer(offer(Some(5_000)), reply()));
        vectors.add("offer without a time", &ToFileService::Offer(offer(None), reply()));
        vectors.add("delete", &ToFileService::Delete(path(), reply()));
        vectors.refuse::<ToFileService>("an unknown variant", &[0x81, 0xa1, b'x', 0xc0]);
        vectors.refuse::<ToFileService>(
            "a delete without a reply",
            &[&[0x81, 0xa6][..], b"Delete", &[0x91, 0x91, 0xa1, b'a']].concat(),
        );
        vectors.add("already there", &OfferAnswer::AlreadyThere);
        vectors.add("a different file is there", &OfferAnswer::Different(stat));
        for reason in [
            FileRefused::NoDestPath,
            FileRefused::BadPath(PathError::Parent),
            FileRefused::TooLarge { max: 4 },
            FileRefused::Disk("x".to_owned()),
        ] {
            vectors.add(&format!("refused: {reason:?}"), &OfferAnswer::Refused(reason));
        }
        let hash = Bytes::from_static(&[7; 32]);
        let receiver = Addr::of(server(20));
        vectors
            .add("send", &OfferAnswer::Send { receiver, have: 3, hash: hash.clone(), window: WINDOW_BYTES });
        vectors.add("deleted", &DeleteAnswer(Ok(true)));
        vectors.add("not deleted", &DeleteAnswer(Err(FileRefused::NotReceived)));
        vectors.add("begin at 3", &ToReceiver::Begin(3));
        vectors.add("a chunk", &ToReceiver::Chunk(Bytes::from_static(b"lo")));
        vectors.add("the end", &ToReceiver::End(hash));
        vectors.add("abort, and keep the bytes", &ToReceiver::Abort(false));
        vectors.refuse::<ToReceiver>("an unknown variant", &[0x81, 0xa1, b'x', 0xc0]);
        vectors.add("5 bytes are written", &ToSender::Written(5));
        vectors.add("stored", &ToSender::Stored);
        vectors.add("a different file has appeared", &ToSender::Different(stat));
        vectors.add("failed", &ToSender::Failed(FileRefused::DiskFull));
        vectors.add("too large", &ToSender::Failed(FileRefused::TooLarge { max: 4 }));
        for (reason, nanos) in
            [("nanos of 2^32", &[0xcf, 0, 0, 0, 1, 0, 0, 0, 0][..]), ("nanos below 0", &[0xff])]
        {
            let before =
                [&[0x81, 0xa9][..], b"Different", &[0x84, 0xa4], b"size", &[5, 0xa7], b"seconds", &[0, 0xa5]];
            let bytes = [before.concat().as_slice(), b"nanos", nanos, &[0xab], b"permissions", &[0]].concat();
            vectors.refuse::<ToSender>(reason, &bytes);
        }
    }
}
