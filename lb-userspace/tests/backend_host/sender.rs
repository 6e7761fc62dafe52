//! A node's part, played with sockets: what is routed to a tun device goes, encapsulated by the kernel's raw and
//! UDP sockets, to the backend host.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read},
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockaddrStorage, sendto};

use crate::net_lab::Namespace;

pub(crate) const GUE_PORT: u16 = 6080;

nix::ioctl_write_int!(tun_set_iff, b'T', 202);

/// `IFF_TUN | IFF_NO_PI` (include/uapi/linux/if_tun.h).
const TUN_PACKETS_ONLY: i16 = 0x1001;

/// How packets are wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wrap {
    Ipip,
    Gue,
}

/// Encapsulates until it is dropped.
pub(crate) struct Sender {
    stop: Arc<AtomicBool>,
    task: Option<JoinHandle<()>>,
}

impl Sender {
    /// Makes `tun0` in the namespace, routes the VIPs to it, and sends what comes out to `outer`.
    pub(crate) fn start(namespace: &Namespace, vips: &[&str], outer: IpAddr, wrap: Wrap) -> Sender {
        let tun = namespace.inside(tun);
        namespace.ip("link set tun0 up mtu 1400");
        for vip in vips {
            let (prefix, source) =
                if vip.contains(':') { (128, "2001:db8:2::1") } else { (32, "203.0.113.1") };
            namespace.ip(&format!("route add {vip}/{prefix} dev tun0 src {source}"));
        }
        let sockets = namespace.inside(|| Sockets::open(outer, wrap));
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let task = thread::spawn(move || pump(tun, &sockets, &stopping));
        Sender { stop, task: Some(task) }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(task) = self.task.take() {
            let _ = task.join();
        }
    }
}

fn pump(mut tun: File, sockets: &Sockets, stop: &AtomicBool) {
    let mut packet = [0; 2_000];
    while !stop.load(Ordering::Relaxed) {
        match tun.read(&mut packet) {
            Ok(length) => sockets.send(&packet[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_micros(200)),
            Err(error) => panic!("tun0: {error}"),
        }
    }
}

/// The sockets that wrap: the kernel writes the outer headers.
struct Sockets {
    outer: IpAddr,
    /// By family of the inner packet; for GUE the same one.
    v4: OwnedFd,
    v6: OwnedFd,
    port: u16,
}

impl Sockets {
    fn open(outer: IpAddr, wrap: Wrap) -> Sockets {
        let (v4, v6) = match wrap {
            Wrap::Ipip => (raw(outer, 4), raw(outer, 41)),
            Wrap::Gue => {
                let any = if outer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).unwrap();
                (socket.try_clone().unwrap().into(), socket.into())
            }
        };
        Sockets { outer, v4, v6, port: if wrap == Wrap::Gue { GUE_PORT } else { 0 } }
    }

    fn send(&self, packet: &[u8]) {
        let socket = if packet[0] >> 4 == 4 { &self.v4 } else { &self.v6 };
        let to = SockaddrStorage::from(SocketAddr::new(self.outer, self.port));
        sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty()).unwrap();
    }
}

/// A raw socket, by libc: nix knows the protocols of a list only.
fn raw(outer: IpAddr, protocol: i32) -> OwnedFd {
    use std::os::fd::FromRawFd as _;
    let family = if outer.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 } as i32;
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::socket(family, libc::SOCK_RAW | SockFlag::SOCK_CLOEXEC.bits(), protocol) };
    assert!(fd >= 0, "a raw socket: {}", std::io::Error::last_os_error());
    // SAFETY: a new descriptor of ours.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn tun() -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .unwrap();
    // SAFETY: a struct of integers, for which zeros are right.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"tun0") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = TUN_PACKETS_ONLY;
    // The kernel takes its time to remove the device that a test before this one had.
    for _ in 0..100 {
        // SAFETY: TUNSETIFF takes a pointer to this struct.
        match unsafe { tun_set_iff(file.as_raw_fd(), (&raw mut request) as u64) } {
            Err(nix::errno::Errno::EBUSY) => std::thread::sleep(std::time::Duration::from_millis(50)),
            result => {
                result.unwrap();
                return file;
            }
        }
    }
    panic!("tun0 stays busy");
}
