//! A queue pair: made, walked from INIT by RTR to RTS, posted to.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr;

use rdma_sys as sys;

use super::{Access, Completions, Domain, Receives};
use crate::errors::{Result, made, returned};
use crate::host;

pub struct Pair {
    raw: *mut sys::ibv_qp,
    /// Bytes that may be posted inline.
    pub inline: u32,
    /// Requests that may be under way.
    pub depth: u32,
}

// SAFETY: queue pairs may be used from any thread; the drivers lock.
unsafe impl Send for Pair {}
// SAFETY: as above.
unsafe impl Sync for Pair {}

/// Everything that the way from INIT to RTS needs.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    pub port: u8,
    pub gid_index: u8,
    pub peer_gid: [u8; 16],
    pub peer_lid: u16,
    /// By GID, as always on Ethernet.
    pub global: bool,
    pub mtu: u32,
    pub peer_pair: u32,
    pub own_sequence: u32,
    pub peer_sequence: u32,
    pub traffic_class: u8,
    pub hop_limit: u8,
    pub flow_label: u32,
    pub timeout: u8,
    pub retries: u8,
    /// Fetches under way at once: ours, and those of the peer's that we answer.
    pub fetches_out: u8,
    pub fetches_in: u8,
}

/// Milliseconds until a peer whose receives were used up tries again: 0.64.
const RECEIVE_TIMER: u8 = 12;
/// How often. 7 would be for ever.
const RECEIVE_RETRIES: u8 = 6;

/// One work request.
#[derive(Clone, Copy)]
pub struct Request {
    pub id: u64,
    pub fetch: bool,
    pub signalled: bool,
    /// The address, and the key of registered memory or none: the bytes are copied then.
    pub local: u64,
    pub local_key: Option<u32>,
    pub bytes: u32,
    pub remote: u64,
    pub remote_key: u32,
    /// As the peer gets it.
    pub note: Option<u32>,
}

/// At most so many in one call.
pub const MOST: usize = 16;

impl Pair {
    /// In INIT; asks for `inline` bytes and takes less, down to `least`.
    pub fn new(
        domain: &Domain,
        completions: &Completions,
        receives: &Receives,
        depth: u32,
        inline: (u32, u32),
        port: u8,
    ) -> Result<Pair> {
        let (mut wish, least) = inline;
        let pair = loop {
            match create(domain, completions, receives, depth, wish) {
                Ok(pair) => break pair,
                Err(_) if wish > least => wish = (wish / 2).max(least),
                Err(error) => return Err(error),
            }
        };
        host::noted("INIT", pair.initialise(port))?;
        Ok(pair)
    }

    pub fn number(&self) -> u32 {
        // SAFETY: a live queue pair.
        unsafe { (*self.raw).qp_num }
    }

    fn initialise(&self, port: u8) -> Result<()> {
        use sys::ibv_qp_attr_mask as mask;
        let mut to = attributes(sys::ibv_qp_state::IBV_QPS_INIT);
        to.port_num = port;
        to.qp_access_flags = Access { local_write: false, remote_write: true, remote_read: true }.bits();
        self.modify(to, mask::IBV_QP_STATE | mask::IBV_QP_PKEY_INDEX | mask::IBV_QP_PORT | mask::IBV_QP_ACCESS_FLAGS)
    }

    /// To RTR and RTS. Finds the neighbour in between, which takes a second when nobody answers.
    pub fn connect(&self, path: &Path) -> Result<()> {
        self.ready_to_receive(path)?;
        self.ready_to_send(path)
    }

    fn ready_to_receive(&self, path: &Path) -> Result<()> {
        use sys::ibv_qp_attr_mask as mask;
        let to = receiving(path);
        self.modify(
            to,
            mask::IBV_QP_STATE
                | mask::IBV_QP_AV
                | mask::IBV_QP_PATH_MTU
                | mask::IBV_QP_DEST_QPN
                | mask::IBV_QP_RQ_PSN
                | mask::IBV_QP_MAX_DEST_RD_ATOMIC
                | mask::IBV_QP_MIN_RNR_TIMER,
        )
    }

    fn ready_to_send(&self, path: &Path) -> Result<()> {
        use sys::ibv_qp_attr_mask as mask;
        let mut to = attributes(sys::ibv_qp_state::IBV_QPS_RTS);
        to.sq_psn = path.own_sequence;
        to.timeout = path.timeout;
        to.retry_cnt = path.retries;
        to.rnr_retry = RECEIVE_RETRIES;
        to.max_rd_atomic = path.fetches_out;
        self.modify(
            to,
            mask::IBV_QP_STATE
                | mask::IBV_QP_SQ_PSN
                | mask::IBV_QP_TIMEOUT
                | mask::IBV_QP_RETRY_CNT
                | mask::IBV_QP_RNR_RETRY
                | mask::IBV_QP_MAX_QP_RD_ATOMIC,
        )
    }

    /// From now on nothing is sent, answered or taken from the wire by it.
    pub fn fail(&self) -> Result<()> {
        self.modify(attributes(sys::ibv_qp_state::IBV_QPS_ERR), sys::ibv_qp_attr_mask::IBV_QP_STATE)
    }

    /// Posts all, or says why not all were: the pair is then not to be posted to any more.
    pub fn post(&self, requests: &[Request]) -> Result<()> {
        let count = requests.len().min(MOST);
        if count == 0 {
            return Ok(());
        }
        let mut work = [const { MaybeUninit::<sys::ibv_send_wr>::uninit() }; MOST];
        let mut pieces = [const { MaybeUninit::<sys::ibv_sge>::uninit() }; MOST];
        let first_work = work.as_mut_ptr().cast::<sys::ibv_send_wr>();
        let first_piece = pieces.as_mut_ptr().cast::<sys::ibv_sge>();
        for (at, request) in requests.iter().take(count).enumerate() {
            let piece =
                sys::ibv_sge { addr: request.local, length: request.bytes, lkey: request.local_key.unwrap_or(0) };
            // SAFETY: `at` is below both arrays' lengths; zeroes are a valid request, and are written before it is looked at.
            unsafe {
                first_piece.add(at).write(piece);
                let work = &mut *first_work.add(at);
                *work = std::mem::zeroed();
                work.wr_id = request.id;
                work.next = if at + 1 < count { first_work.add(at + 1) } else { ptr::null_mut() };
                work.sg_list = first_piece.add(at);
                work.num_sge = c_int::from(request.bytes > 0);
                work.opcode = opcode(request);
                work.send_flags = flags(request);
                work.imm_data_invalidated_rkey_union.imm_data = request.note.unwrap_or(0).to_be();
                work.wr.rdma = sys::rdma_t { remote_addr: request.remote, rkey: request.remote_key };
            }
        }
        let mut bad = ptr::null_mut();
        // SAFETY: a live queue pair, and lists on this frame that the call copies.
        returned(unsafe { sys::ibv_post_send(self.raw, first_work, &mut bad) })
    }

    fn modify(&self, mut to: sys::ibv_qp_attr, mask: sys::ibv_qp_attr_mask) -> Result<()> {
        // SAFETY: a live queue pair; the attributes that the mask names are set.
        returned(unsafe { sys::ibv_modify_qp(self.raw, &mut to, mask.0 as c_int) })
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // SAFETY: made by this type, destroyed once.
        unsafe { sys::ibv_destroy_qp(self.raw) };
    }
}

fn opcode(request: &Request) -> sys::ibv_wr_opcode::Type {
    match (request.fetch, request.note) {
        (true, _) => sys::ibv_wr_opcode::IBV_WR_RDMA_READ,
        (false, Some(_)) => sys::ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM,
        (false, None) => sys::ibv_wr_opcode::IBV_WR_RDMA_WRITE,
    }
}

fn flags(request: &Request) -> u32 {
    use sys::ibv_send_flags as flag;
    let signalled = if request.signalled { flag::IBV_SEND_SIGNALED.0 } else { 0 };
    let inline = request.local_key.is_none() && request.bytes > 0;
    signalled | if inline { flag::IBV_SEND_INLINE.0 } else { 0 }
}

fn create(domain: &Domain, completions: &Completions, receives: &Receives, depth: u32, inline: u32) -> Result<Pair> {
    // SAFETY: zeroes are valid; the fields are set before use.
    let mut wish: sys::ibv_qp_init_attr = unsafe { std::mem::zeroed() };
    wish.send_cq = completions.0;
    wish.recv_cq = completions.0;
    wish.srq = receives.0;
    wish.cap.max_send_wr = depth;
    wish.cap.max_send_sge = 1;
    wish.cap.max_inline_data = inline;
    wish.qp_type = sys::ibv_qp_type::IBV_QPT_RC;
    // SAFETY: live objects of one device.
    let raw = made(unsafe { sys::ibv_create_qp(domain.raw(), &mut wish) })?;
    // A device may give more than was asked for; we keep to what we asked for, or to less if it gave that.
    Ok(Pair { raw, inline: wish.cap.max_inline_data, depth: wish.cap.max_send_wr.min(depth) })
}

/// What RTR needs. By LID the GIDs are not looked at.
fn receiving(path: &Path) -> sys::ibv_qp_attr {
    let mut to = attributes(sys::ibv_qp_state::IBV_QPS_RTR);
    to.path_mtu = path.mtu;
    to.dest_qp_num = path.peer_pair;
    to.rq_psn = path.peer_sequence;
    to.max_dest_rd_atomic = path.fetches_in;
    to.min_rnr_timer = RECEIVE_TIMER;
    to.ah_attr.port_num = path.port;
    to.ah_attr.dlid = path.peer_lid;
    to.ah_attr.is_global = u8::from(path.global);
    to.ah_attr.grh.dgid.raw = path.peer_gid;
    to.ah_attr.grh.sgid_index = path.gid_index;
    to.ah_attr.grh.flow_label = path.flow_label;
    to.ah_attr.grh.hop_limit = path.hop_limit;
    to.ah_attr.grh.traffic_class = path.traffic_class;
    to
}

fn attributes(state: sys::ibv_qp_state::Type) -> sys::ibv_qp_attr {
    // SAFETY: zeroes are valid, and what a mask does not name is not read.
    let mut attributes: sys::ibv_qp_attr = unsafe { std::mem::zeroed() };
    attributes.qp_state = state;
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(global: bool) -> Path {
        Path {
            port: 2,
            gid_index: 3,
            peer_gid: [9; 16],
            peer_lid: 0x1234,
            global,
            mtu: 4,
            peer_pair: 77,
            own_sequence: 1,
            peer_sequence: 2,
            traffic_class: 0xb8,
            hop_limit: 7,
            flow_label: 5,
            timeout: 14,
            retries: 6,
            fetches_out: 1,
            fetches_in: 1,
        }
    }

    #[test]
    fn ready_to_receive_is_by_lid_on_infiniband_and_by_gid_elsewhere() {
        for global in [false, true] {
            let to = receiving(&path(global));
            assert_eq!((to.ah_attr.dlid, to.ah_attr.is_global, to.ah_attr.port_num), (0x1234, u8::from(global), 2));
            assert_eq!((to.dest_qp_num, to.rq_psn, to.path_mtu), (77, 2, 4));
            // SAFETY: set above, in this form.
            assert_eq!(unsafe { to.ah_attr.grh.dgid.raw }, [9; 16]);
            assert_eq!(
                (to.ah_attr.grh.sgid_index, to.ah_attr.grh.hop_limit, to.ah_attr.grh.traffic_class),
                (3, 7, 0xb8)
            );
        }
    }
}
