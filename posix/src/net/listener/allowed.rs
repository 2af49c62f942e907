//! Users and groups that may connect to UNIX sockets.

use crate::net::stream::Stream;
use crate::sys;

/// The most supplementary groups of a peer that are looked at; of a peer with more only the primary
/// group is.
const GROUPS_MAX: usize = 1024;

/// Users and groups whose processes are served. A process needs to be one of the users, or in one of
/// the groups; root is a user like others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Allowed {
    /// User ids.
    pub uids: Vec<u32>,
    /// Group ids. On Linux the supplementary groups of a process count too.
    pub gids: Vec<u32>,
}

impl Allowed {
    /// Whether nobody is excluded.
    pub fn is_everyone(&self) -> bool {
        self.uids.is_empty() && self.gids.is_empty()
    }

    /// Whether the process that connected `stream` is served, by what it was when it connected; if not,
    /// its user id, or `None` if the system does not tell.
    pub(super) fn admits(&self, stream: &Stream) -> Result<(), Option<u32>> {
        let socket = stream.read_fd().ok_or(None)?;
        let (uid, gid) = sys::peer_user(socket).map_err(|_| None)?;
        if self.uids.contains(&uid) || self.gids.contains(&gid) {
            return Ok(());
        }
        let mut room = [0; GROUPS_MAX];
        let any = !self.gids.is_empty()
            && sys::peer_groups(socket, &mut room)
                .is_ok_and(|groups| groups.iter().any(|group| self.gids.contains(group)));
        if any { Ok(()) } else { Err(Some(uid)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{in_child, is_root};
    use std::os::unix::net::UnixStream;

    /// What the other end of a connection that this process makes is told.
    fn admits(uids: &[u32], gids: &[u32]) -> Result<(), Option<u32>> {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let allowed = Allowed { uids: uids.to_vec(), gids: gids.to_vec() };
        allowed.admits(&Stream::adopt(ours.into()).unwrap())
    }

    #[test]
    fn a_user_or_a_group_is_enough() {
        let ([uid, ..], [gid, ..]) = sys::ids().unwrap();
        assert_eq!(admits(&[uid], &[]), Ok(()));
        assert_eq!(admits(&[], &[gid]), Ok(()));
        assert_eq!(admits(&[uid + 1, uid], &[gid + 1]), Ok(()));
        assert_eq!(admits(&[uid + 1], &[gid + 1]), Err(Some(uid)));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn supplementary_groups_count_up_to_a_limit() {
        if !is_root() {
            return;
        }
        in_child("net::listener::allowed::tests::supplementary_groups_count_up_to_a_limit", || {
            use rustix::fs::Gid;
            use rustix::thread::set_thread_groups;
            let groups: Vec<_> = (5000..).take(GROUPS_MAX + 1).map(Gid::from_raw).collect();
            set_thread_groups(&groups[..GROUPS_MAX]).unwrap();
            assert_eq!(admits(&[], &[5000 + 1023]), Ok(()));
            assert_eq!(admits(&[], &[4999]), Err(Some(0)));
            set_thread_groups(&groups).unwrap();
            assert_eq!(admits(&[], &[5000]), Err(Some(0)));
            assert_eq!(admits(&[], &[0]), Ok(()), "the primary group counts still");
        });
    }

    #[test]
    fn a_socket_without_a_user_is_refused() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let served = Stream::adopt(listener.accept().unwrap().0.into()).unwrap();
        let (uids, gids) = sys::ids().unwrap();
        let allowed = Allowed { uids: uids.to_vec(), gids: gids.to_vec() };
        assert!(allowed.admits(&served).is_err());
    }
}
