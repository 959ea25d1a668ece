//! A DNS server that knows what a test says, over UDP, and says of nothing else that it exists.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, MX, PTR, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// How soon the server notices that it has to end.
const TURN: Duration = Duration::from_millis(100);

/// One at a time answers; it ends when this is dropped.
pub struct Zone {
    address: SocketAddr,
    ttl: Duration,
    records: Arc<Mutex<Vec<Record>>>,
    going: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl Zone {
    /// Answers may be kept for `ttl`.
    ///
    /// # Panics
    /// If it has no port.
    #[must_use]
    pub fn new(ttl: Duration) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        socket.set_read_timeout(Some(TURN)).expect("a socket");
        let address = socket.local_addr().expect("an address");
        let records: Arc<Mutex<Vec<Record>>> = Arc::default();
        let going = Arc::new(AtomicBool::new(true));
        let (known, on) = (records.clone(), going.clone());
        let serving = thread::spawn(move || {
            while on.load(Ordering::Relaxed) {
                // Nobody asked, or what was asked makes no sense.
                drop(answer_one(&socket, &known));
            }
        });
        Self {
            address,
            ttl,
            records,
            going,
            serving: Some(serving),
        }
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it says this: a line for each record, as in a zone file without TTL and class.
    ///
    /// # Panics
    /// If a line cannot be read.
    pub fn says(&self, text: &str) {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        *self.records.lock().unwrap_or_else(PoisonError::into_inner) =
            lines.map(|line| self.record(line)).collect();
    }

    fn record(&self, line: &str) -> Record {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = |word: &str| Name::from_ascii(word).expect(line);
        let data = match words[1..] {
            ["A", address] => RData::A(A(address.parse().expect(line))),
            ["CNAME", host] => RData::CNAME(CNAME(name(host))),
            ["PTR", host] => RData::PTR(PTR(name(host))),
            ["MX", preference, host] => {
                RData::MX(MX::new(preference.parse().expect(line), name(host)))
            }
            ["TXT", ..] => RData::TXT(TXT::new(vec![words[2..].join(" ")])),
            _ => panic!("not a record: {line}"),
        };
        let ttl = u32::try_from(self.ttl.as_secs()).expect("a TTL");
        Record::from_rdata(name(words[0]), ttl, data)
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        self.going.store(false, Ordering::Relaxed);
        if let Some(serving) = self.serving.take() {
            drop(serving.join());
        }
    }
}

fn answer_one(socket: &UdpSocket, known: &Mutex<Vec<Record>>) -> io::Result<()> {
    let mut bytes = [0; 512];
    let (length, from) = socket.recv_from(&mut bytes)?;
    let asked = Message::from_vec(&bytes[..length]).map_err(io::Error::other)?;
    let Some(query) = asked.queries.first() else {
        return Ok(());
    };
    let records = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let of_name = |name: &Name| {
        let of_name = records.iter().filter(|record| record.name == *name);
        of_name.cloned().collect::<Vec<_>>()
    };
    let here = of_name(&query.name);
    let mut answer = Message::new(asked.id, MessageType::Response, asked.op_code);
    answer.metadata.recursion_available = true;
    answer.add_query(query.clone());
    if here.is_empty() {
        answer.metadata.response_code = ResponseCode::NXDomain;
    }
    for record in here {
        let kind = record.record_type();
        if kind == query.query_type {
            answer.add_answer(record);
        } else if let (RecordType::CNAME, RData::CNAME(real)) = (kind, &record.data) {
            // RFC 1034 section 3.6.2: the alias, and what is asked of the real name.
            let behind = of_name(&real.0);
            let kinds = behind
                .into_iter()
                .filter(|found| found.record_type() == query.query_type);
            let kinds: Vec<_> = kinds.collect();
            answer.add_answer(record);
            answer.add_answers(kinds);
        }
    }
    let bytes = answer.to_vec().map_err(io::Error::other)?;
    socket.send_to(&bytes, from).map(drop)
}
