//! What scenarios of their own share: three nodes that are well, a domain to which nobody delivers, and no
//! senders.

use super::*;

const DOMAIN: &str = "undelivered.example";

pub(super) fn undelivered(body: BodyRef) -> Command {
    let Command::Accept { mut envelope } = accept(body) else {
        unreachable!("it is one");
    };
    envelope.recipients[0].address = Address::parse(&format!("a@{DOMAIN}"), false).unwrap();
    Command::Accept { envelope }
}

impl Simulation {
    pub(super) fn quiet(template: &Template, seed: u64) -> Self {
        let mut simulation = Self::begin(template, seed, in_a_loop);
        lock(&simulation.history).calm = true;
        let well = |simulation: &Self| {
            let well = |it: Cluster| it.has_quorum() && it.is_current();
            (0..HOSTS).all(|host| simulation.cluster(host).is_some_and(well))
        };
        assert!(simulation.until(30_000, well));
        let set = Command::SetDomain {
            domain: Domain::parse(DOMAIN).unwrap(),
            primary: Primary {
                host: "127.0.0.1".into(),
                port: 1,
            },
            must_be_new: false,
            must_exist: false,
        };
        let done = simulation.on(0, 30_000, move |cluster| async move {
            propose(&cluster, set).await
        });
        assert!(matches!(done, Some(Ok(Reply::Done))), "{done:?}");
        simulation
    }

    /// Steps until it is so, or the time is over; says whether it was.
    pub(super) fn until(&mut self, ms: u64, is_so: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + ms;
        while self.now < end {
            if is_so(self) {
                return true;
            }
            self.step();
        }
        false
    }

    pub(super) fn cluster(&self, host: usize) -> Option<Cluster> {
        lock(&self.hosts[host].cluster).clone()
    }

    /// Has a host do something; `None` if it takes too long.
    pub(super) fn on<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &mut self,
        host: usize,
        ms: u64,
        work: impl FnOnce(Cluster) -> F + Send + 'static,
    ) -> Option<T> {
        let done: Arc<Mutex<Option<T>>> = Arc::default();
        let cluster = self.cluster(host).unwrap();
        let (runtime, machine) = self.hosts[host].running.as_ref().unwrap();
        enter(Some(machine.clone()));
        runtime.spawn({
            let done = done.clone();
            async move {
                let came = work(cluster).await;
                *lock(&done) = Some(came);
            }
        });
        enter(None);
        self.until(ms, |_| lock(&done).is_some());
        lock(&done).take()
    }

    /// A message of so many bytes is offered at a host; its body, if it was accepted.
    pub(super) fn offer(&mut self, host: usize, bytes: usize) -> Option<BodyRef> {
        const PIECE: usize = 256 << 10;
        let offered = self.on(host, 90_000, move |cluster| async move {
            let id = MessageId::new(super::super::now(), super::super::random_id());
            let mut writer = cluster.bodies().begin(id);
            for at in (0..bytes).step_by(PIECE) {
                let piece = vec![b'x'; PIECE.min(bytes - at)];
                writer.write(piece.into()).await.ok()?;
            }
            let body = writer.finish().await.ok()?;
            let reply = propose(&cluster, undelivered(body)).await;
            matches!(reply, Ok(Reply::Accepted { .. })).then_some(body)
        });
        offered.flatten()
    }

    pub(super) fn has(&self, host: usize, body: &BodyRef) -> bool {
        let cluster = self.cluster(host).unwrap();
        let known = query::envelope(&cluster.view(), body.id).unwrap();
        known.is_some() && cluster.bodies().present(body.id).unwrap()
    }
}
