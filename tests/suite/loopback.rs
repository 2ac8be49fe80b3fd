//! HTTP on loopback for the tests that need a server: one request per connection, and a log of them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// The requests in the order of their answers.
pub(crate) type Log = Arc<Mutex<Vec<Request>>>;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// `hub` or `storage`.
    pub(crate) host: &'static str,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    /// Bytes of body sent back.
    pub(crate) sent: usize,
}

impl Request {
    pub(crate) fn range(&self) -> Option<&str> {
        self.headers.get("range").map(String::as_str)
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// How much of the body is sent.
    pub(crate) until: usize,
    pub(crate) announced: bool,
}

impl Answer {
    pub(crate) fn new(status: u16, headers: Vec<(&'static str, String)>, body: Vec<u8>) -> Self {
        Self { status, headers, until: body.len(), announced: true, body }
    }
}

/// Answers a request whose body can be read. Without an answer the connection closes.
type Handler<S> = dyn Fn(&mut S, &Request, &mut dyn Read) -> Option<Answer> + Send + Sync;

/// Starts a server whose answers depend on `state`, and returns its address. It ends with the test process.
pub(crate) fn serve<S: Send + 'static>(
    host: &'static str,
    state: &Arc<Mutex<S>>,
    log: &Log,
    handler: impl Fn(&mut S, &Request, &mut dyn Read) -> Option<Answer> + Send + Sync + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let handler: Arc<Handler<S>> = Arc::new(handler);
    let (state, log) = (Arc::clone(state), Arc::clone(log));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (state, log, handler) = (Arc::clone(&state), Arc::clone(&log), Arc::clone(&handler));
            std::thread::spawn(move || connection(stream, host, &state, &log, &*handler));
        }
    });
    address
}

/// Answers one request and closes.
fn connection<S>(mut stream: TcpStream, host: &'static str, state: &Mutex<S>, log: &Log, handler: &Handler<S>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = reader.by_ref().lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers: BTreeMap<_, _> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned())))
        .collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut request = Request { host, method, path, headers, sent: 0 };

    let answer = {
        let mut state = state.lock().unwrap();
        let answer = handler(&mut state, &request, &mut reader.take(length));
        let until = answer.as_ref().map_or(0, |answer| answer.until);
        request.sent = if request.method == "HEAD" { 0 } else { until };
        log.lock().unwrap().push(request.clone());
        answer
    };
    let Some(answer) = answer else { return };
    let mut head = format!("HTTP/1.1 {} Something\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if answer.announced {
        head.push_str(&format!("Content-Length: {}\r\n", answer.body.len()));
    }
    head.push_str("\r\n");
    // The client may have gone; that is its business.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&answer.body[..request.sent]));
}
