//! The share of this node's resources that one peer may use. A peer has proven its membership, but must still not
//! exhaust the node.
//!
//! The sizes of records and messages, and credit, are in [`Limits`](crate::Limits), which the two nodes of a session
//! exchange. The limits in this module are not exchanged: a peer that exceeds one is refused.

/// Defines the limits and the counters of refusals, and the rows of docs/limits.md.
macro_rules! limits_table {
    (
        $(#[doc = $limits_doc:literal])*
        limits {
            $( $(#[doc = $limit_doc:literal])* $limit:ident: $type:ty = $default:expr, $counted_in:ident; )*
        }
        $(#[doc = $refusals_doc:literal])*
        refusals {
            $( $(#[doc = $counter_doc:literal])* $counter:ident; )*
        }
    ) => {
        $(#[doc = $limits_doc])*
        #[derive(Copy, Clone, Debug, PartialEq, Eq)]
        pub struct PeerLimits {
            $(
                $(#[doc = $limit_doc])*
                #[doc = concat!("\n\nCounted in [`Refusals::", stringify!($counted_in), "`].")]
                pub $limit: $type,
            )*
        }

        impl Default for PeerLimits {
            fn default() -> Self {
                Self { $( $limit: $default, )* }
            }
        }

        $(#[doc = $refusals_doc])*
        #[derive(Copy, Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
        #[non_exhaustive]
        pub struct Refusals {
            $( $(#[doc = $counter_doc])* pub $counter: u64, )*
        }

        /// The rows of docs/limits.md: a limit, what it bounds, its default and its counter; a counter, and what it counts.
        #[cfg(test)]
        fn rows() -> (Vec<[String; 4]>, Vec<[String; 2]>) {
            let limits = PeerLimits::default();
            let limit_rows = vec![ $( [
                stringify!($limit).to_owned(),
                [$($limit_doc),*].concat(),
                format!("{:?}", limits.$limit),
                stringify!($counted_in).to_owned(),
            ], )* ];
            // Each counter exists.
            let refusals = Refusals::default();
            $( let _ = refusals.$counted_in; )*
            let counter_rows = vec![ $( [stringify!($counter).to_owned(), [$($counter_doc),*].concat()], )* ];
            (limit_rows, counter_rows)
        }
    };
}

limits_table! {
    /// How much of this node's resources one peer may use at a time.
    ///
    /// Two more bounds apply. Messages over 1 KiB in mailboxes are limited to 64 MiB for each peer, and to 256 MiB for all
    /// peers together; both are twice as large for a message to an actor whose mailbox is empty. [`Limits`](crate::Limits)
    /// bounds the session. Each refusal is counted in [`Refusals`], and logged at a limited rate.
    ///
    /// A peer is one incarnation of a node. For files, the peers with the same certificate count as one peer; without TLS,
    /// all nodes at one IP address do.
    limits {
        /// Lookups of the peer that are open here because the name is not registered: 16,384. Beyond that, its actors
        /// receive [`LocateError::Refused`](crate::LocateError::Refused).
        lookups_max: usize = 16_384, lookups;
        /// Monitors that actors of the peer have set on actors here, and separately the `notify` requests of the peer for
        /// actors here: 65,536 of each. Beyond that, a monitor is answered with
        /// [`ExitReason::Refused`](antiphon_sched::ExitReason::Refused). A peer that exceeds its `notify` limit receives no
        /// error; the actor here receives a `Down` with [`ExitReason::Refused`](antiphon_sched::ExitReason::Refused), if its
        /// mailbox has room.
        monitors_max: usize = 65_536, monitors;
        /// Requests of the peer that are open here, whether they wait in a mailbox or an actor keeps their `ReplyTo`: 65,536.
        /// Beyond that, requests are answered with [`AskError::Busy`](antiphon_sched::AskError::Busy).
        requests_max: usize = 65_536, requests;
        /// Subscribers that the peer has added to one channel of this node: 4,096 of the 32,768 that a channel can have. (A
        /// node needs one, for all its own subscribers.) Beyond that, the peer receives
        /// [`SubscribeError::OverQuota`](crate::SubscribeError::OverQuota).
        channel_subscriptions_max: usize = 4_096, subscriptions;
        /// Subscribers that the peer has added to all channels of this node together: 16,384.
        subscriptions_max: usize = 16_384, subscriptions;
        /// Bytes of files from the peer since this node started, including files that the peer has begun to send. `None`,
        /// the default: only the disk is the bound. This is a total, so deleting a file frees nothing; for the bytes on the
        /// disk at a time see [`Config::dest_bytes_max`](crate::Config::dest_bytes_max). Beyond it, a file is refused with
        /// [`FileRefused::OverQuota`](crate::FileRefused::OverQuota).
        file_bytes_max: Option<u64> = None, files;
    }

    /// How often peers were refused since the node started, by kind.
    refusals {
        /// Messages, signals and lookups for actors that are not open to the peer.
        access;
        /// Connections of a node that is known by another certificate.
        certificates;
        /// Lookups over `lookups_max`.
        lookups;
        /// Monitors over `monitors_max`.
        monitors;
        /// Requests over `requests_max`.
        requests;
        /// Nodes that peers have named over the 1,024 of each peer, or more often than each may: each replaces an older one, or is not
        /// remembered.
        routes;
        /// Dials that peers and datagrams have caused, and that are not made because too many wait for their turn.
        dials;
        /// Subscriptions over the quota of the peer, or over the limit of the channel.
        subscriptions;
        /// Calls of RCIs over `rci_actors_max`, or over the limit of the RCI.
        rci_actors;
        /// Files over `file_bytes_max`, `dest_bytes_max`, `max_file_size` or the peer's share of `transfers_max`. Also
        /// transfers in which the sender sent more than was offered or granted, sent out of order, or sent nothing for ten
        /// minutes.
        files;
        /// Offers and deletions that no peer may request: paths that leave the folder, objects that are no plain files,
        /// files that did not come from a peer.
        file_paths;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of a doc comment without links.
    fn plain(doc: &str) -> String {
        let mut text = String::new();
        let mut rest = doc.trim();
        while let Some((before, link)) = rest.split_once("](") {
            text.push_str(before);
            rest = link.split_once(')').map_or("", |(_, after)| after);
        }
        text.push_str(rest);
        text.replace("[`", "`").replace("`]", "`")
    }

    /// `ANTIPHON_WRITE_LIMITS=1` writes the page anew.
    #[test]
    fn page_of_limits_is_as_in_code() {
        let (limits, counters) = rows();
        let mut page = "# Limits of one peer\n\nA test makes this page from `PeerLimits` and `Refusals`. \
            [SECURITY.md](SECURITY.md) has all bounds, with the tests that reach them.\n\n\
            | field of `Config::peer_limits` | bound | default | counter in `Counts::refusals` |\n|---|---|---|---|\n"
            .to_owned();
        for [limit, what, default, counter] in limits {
            page += &format!("| `{limit}` | {} | {default} | `{counter}` |\n", plain(&what));
        }
        page += "\n| counter | counts |\n|---|---|\n";
        for [counter, what] in counters {
            page += &format!("| `{counter}` | {} |\n", plain(&what));
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/limits.md");
        if std::env::var_os("ANTIPHON_WRITE_LIMITS").is_some() {
            std::fs::write(path, &page).expect("the page is written");
        }
        let written = std::fs::read_to_string(path).expect("the page exists");
        assert_eq!(written, page, "write docs/limits.md anew with ANTIPHON_WRITE_LIMITS=1");
    }
}
