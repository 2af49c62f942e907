//! A certificate authority with an OCSP responder that counts its requests.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use distcache_testing::process::{Dir, TIMEOUT};
use distcache_testing::rig::succeed;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// Answers each request by running `openssl ocsp`. Ends on drop.
pub(crate) struct Responder {
    dir: PathBuf,
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// Creates an authority and its certificate for `localhost` in `dir`, and starts the responder.
    pub(crate) fn new(dir: &Dir) -> Self {
        let dir = dir.path().to_owned();
        make_certificates(&dir);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of our own machine");
        let address = listener.local_addr().expect("it has one");
        let (asked, ending) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let thread = std::thread::spawn({
            let (dir, asked, ending) = (dir.clone(), Arc::clone(&asked), Arc::clone(&ending));
            move || {
                for socket in listener.incoming() {
                    let socket = socket.expect("a connection");
                    if ending.load(Ordering::SeqCst) {
                        return;
                    }
                    answer(&dir, &asked, socket);
                }
            }
        });
        Self { dir, address, asked, ending, thread: Some(thread) }
    }

    /// Returns the URL of the responder.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Returns the number of requests.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Returns the certificate chain and the key.
    pub(crate) fn certificate(&self) -> (String, String) {
        let read = |name| fs::read_to_string(self.dir.join(name)).expect("openssl has made it");
        (read("leaf.pem") + &read("ca.pem"), read("leaf.key"))
    }

    /// Returns the SHA-1 of the certificate in hexadecimal, which is httpd's id of the staple.
    pub(crate) fn fingerprint(&self) -> String {
        let arguments = "x509 -noout -fingerprint -sha1 -in leaf.pem".split_whitespace();
        let printed = succeed(Command::new("openssl").args(arguments).current_dir(&self.dir));
        printed.trim().split_once('=').expect("a name and digits").1.to_owned()
    }

    /// Returns the roots that a client must trust.
    pub(crate) fn roots(&self) -> RootCertStore {
        let authority = CertificateDer::from_pem_file(self.dir.join("ca.pem"));
        let mut roots = RootCertStore::empty();
        roots.add(authority.expect("openssl has made it")).expect("a certificate");
        roots
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        // The thread waits for a connection.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn make_certificates(dir: &Path) {
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        succeed(command.args(arguments.split_whitespace()).current_dir(dir));
    };
    fs::write(dir.join("extensions"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n")
        .expect("a file in our own directory");
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -days 30 -subj /CN=authority -keyout ca.key -out ca.pem"));
    openssl(&format!("req -new {key} -subj /CN=localhost -keyout leaf.key -out leaf.csr"));
    openssl(
        "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -set_serial 0x1000 -days 29 \
         -extfile extensions -out leaf.pem",
    );
    // The authority's list of certificates. V means valid.
    let list = "V\t491231235959Z\t\t1000\tunknown\t/CN=localhost\n";
    fs::write(dir.join("index.txt"), list).expect("a file in our own directory");
}

/// Reads a POST request and answers it.
fn answer(dir: &Path, asked: &AtomicUsize, socket: TcpStream) {
    socket.set_read_timeout(Some(TIMEOUT)).expect("a socket");
    let mut reader = BufReader::new(socket);
    let (mut line, mut len) = (String::new(), 0);
    while reader.read_line(&mut line).is_ok_and(|len| len > 2) {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            len = value.trim().parse().expect("httpd knows how long its request is");
        }
        line.clear();
    }
    let mut request = vec![0; len];
    reader.read_exact(&mut request).expect("a whole request");
    fs::write(dir.join("request.der"), request).expect("a file in our own directory");
    let arguments = "ocsp -index index.txt -CA ca.pem -rsigner ca.pem -rkey ca.key -ndays 1 \
                     -reqin request.der -respout response.der";
    succeed(Command::new("openssl").args(arguments.split_whitespace()).current_dir(dir));
    let response = fs::read(dir.join("response.der")).expect("openssl has made it");
    asked.fetch_add(1, Ordering::SeqCst);
    let mut socket = reader.into_inner();
    write!(
        socket,
        "HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        response.len()
    )
    .and_then(|()| socket.write_all(&response))
    .expect("httpd waits for it");
}
