package nodes_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

const (
	// leaseTTL is how long a slot outlives its holder, renewEvery how often
	// holders renew theirs.
	leaseTTL   = time.Minute
	renewEvery = 20 * time.Second
)

// slow skips the tests that wait for leases to expire, and has them run next to
// each other.
func slow(t *testing.T) {
	t.Helper()
	redistest.Require(t)
	if testing.Short() {
		t.Skip("leases live for a minute")
	}
	t.Parallel()
}

// later collects answers that are a while in coming.
type later struct {
	all     sync.WaitGroup
	mu      sync.Mutex
	answers []answer
	at      []time.Time
}

func (l *later) ask(f *fleet, n *gatewaytest.Gateway, q question) {
	l.all.Go(func() { l.put(f.ask(n, q)) })
}

func (l *later) put(a answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers, l.at = append(l.answers, a), append(l.at, time.Now())
}

// freeze is for how long a gateway stands still, long for how long its clients
// wait.
const (
	freeze = 75 * time.Second
	long   = freeze + 30*time.Second
)

// standstill is the story of gateway C, which stands still while A and B go on.
// The accounts: a0 to a3 have three slots each, for all. l0 has one, which C
// holds with a stream that has no end. o0 has no limit, and C alone asks it.
type standstill struct {
	*fleet
	a, b, c *gatewaytest.Gateway
	at      time.Time

	// At C: streams under way, asks in line, requests at any point of their way,
	// and the endless stream. others are the streams of A and B.
	held, inLine, busy, endless, others later
}

// occupy has C hold 4 of 12 slots with streams of 3 s, and the one without an
// end. A and B hold the others, and C has asks in line for them.
func (s *standstill) occupy(t *testing.T) {
	s.measure(lasting(3*time.Second, 3*time.Second))
	s.sim.Set(credential("l", 0), simulator.Always(simulator.Reply{Fault: simulator.Fault{Kind: simulator.Endless}, Pause: time.Second}))
	s.sim.Set(credential("o", 0), simulator.Always(simulator.Reply{}))
	s.endless.ask(s.fleet, s.c, question{model: haiku, stream: true, patience: long})
	for range 4 {
		s.held.ask(s.fleet, s.c, question{stream: true, patience: long})
		s.others.ask(s.fleet, s.a, question{stream: true})
		s.others.ask(s.fleet, s.b, question{stream: true})
	}
	gatewaytest.Within(t, 2*time.Second, "all slots are held", func() bool { return s.inFlight("a", 4) == 12 && s.inFlight("l", 1) == 1 })
	for range 3 {
		s.inLine.ask(s.fleet, s.c, question{patience: long})
	}
	// So that it is frozen in the midst of asking Redis, too.
	begun := time.Now()
	for range 12 {
		s.busy.all.Go(func() {
			for time.Since(begun) < time.Second {
				s.busy.put(s.ask(s.c, question{model: opus, patience: long}))
			}
		})
	}
	time.Sleep(300 * time.Millisecond)
}

// goOn waits until after C's leases have expired. Its streams end at the
// upstream, but nobody can know: its slots stay its own until then, and so do
// those that its asks in line are given before it is missed.
func (s *standstill) goOn(t *testing.T, usual func(*simulator.Request) simulator.Reply) *load {
	gatewaytest.Within(t, 5*time.Second, "the streams are over at the upstream", func() bool { return s.inFlight("a", 4) == 0 })
	s.others.all.Wait()
	wantWhole(t, s.others.answers)
	s.measure(usual)
	load := s.begin(20, s.a, s.b)
	time.Sleep(time.Until(s.at.Add(leaseTTL - renewEvery - time.Second)))
	s.wantAtMost("while C was frozen", "a", 4, 3)
	if used := total(s.most("a", 4)); used > 8 {
		t.Errorf("%d slots were used while C held 4 of 12", used)
	}
	time.Sleep(time.Until(s.at.Add(leaseTTL + time.Second)))
	s.measure(usual)
	var next later
	next.ask(s.fleet, s.a, question{model: haiku})
	time.Sleep(time.Until(s.at.Add(freeze - 5*time.Second)))
	s.wantMost("a minute after C was frozen", "a", 4, 3)
	next.all.Wait()
	wantWhole(t, next.answers) // in the slot that C held with its endless stream
	return load
}

// comeTo has C run again, which must know that it holds nothing.
func (s *standstill) comeTo(t *testing.T, load *load) {
	s.c.Thaw()
	thawed := time.Now()
	more := s.begin(10, s.c)
	time.Sleep(5 * time.Second)
	load.end(t)
	more.end(t)
	for _, l := range []*later{&s.held, &s.inLine, &s.busy, &s.endless} {
		l.all.Wait()
	}
	s.wantMost("while C came to", "a", 4, 3)
	wantEnded(t, "a stream that C held", s.held.answers)
	wantEnded(t, "a request that was in line at C", s.inLine.answers)
	wantEnded(t, "a request that was anywhere at C", s.busy.answers)
	if e := s.endless.answers[0]; e.err != nil || strings.Count(e.body, "event: error") != 1 || strings.Contains(e.body, "message_stop") {
		t.Errorf("the endless stream, whose slot was lost, did not end with one error event: %v", e)
	}
	if took := s.endless.at[0].Sub(thawed); took > 3*time.Second {
		t.Errorf("C ended the stream whose slot was lost %v after it came to", took)
	}
}

func TestAFrozenNodeHarmsNobody(t *testing.T) {
	slow(t)
	p := over(t, redistest.Start(t), accounts("a", 4, 3, sonnet)+accounts("l", 1, 1, haiku)+accounts("o", 1, 0, opus))
	p.more = "scheduling {\nfallback_wait_timeout 2m\n}"
	f := launch(t, p)
	s := &standstill{fleet: f, a: f.nodes[0], b: f.nodes[1], c: f.nodes[2]}
	s.occupy(t)
	s.c.Freeze()
	s.at = time.Now()
	usual := lasting(200*time.Millisecond, 400*time.Millisecond)
	load := s.goOn(t, usual)
	f.measure(usual)
	time.Sleep(time.Until(s.at.Add(freeze)))
	s.comeTo(t, load)

	// C is one of three again.
	f.measure(usual)
	all := f.begin(20, f.nodes...)
	time.Sleep(3 * time.Second)
	all.end(t)
	f.wantMost("after C came to", "a", 4, 3)
	f.wantFree(slices.Concat(places("a", 4), places("l", 1), places("o", 1))...)
}

// inFlight is what the upstream is answering for the accounts of a kind.
func (f *fleet) inFlight(prefix string, n int) (sum int) {
	for i := range n {
		sum += f.sim.Account(credential(prefix, i)).InFlight
	}
	return sum
}

// wantEnded fails the test unless each answer is whole, or says in its envelope
// or in one event why it is not.
func wantEnded(t *testing.T, what string, answers []answer) {
	t.Helper()
	whole := 0
	for _, a := range answers {
		switch {
		case a.whole():
			whole++
		case a.err != nil:
			t.Errorf("%s got no end: %v", what, a)
		case !strings.Contains(a.body, `"type":"error"`) || strings.Count(a.body, "event: error") > 1:
			t.Errorf("%s ended neither whole nor with an error: %v", what, a)
		default:
			t.Logf("%s: %v", what, a)
		}
	}
	t.Logf("%s: %d of %d came out whole", what, whole, len(answers))
}

func TestSlotsOfAKilledNodeAreFreeAgain(t *testing.T) {
	slow(t)
	p := over(t, redistest.Start(t), accounts("a", 1, 4, sonnet))
	p.more = "scheduling {\nfallback_wait_timeout 2m\n}"
	f := launch(t, p)
	f.sim.Set("", simulator.Always(simulator.Reply{Fault: simulator.Fault{Kind: simulator.Endless}, Pause: time.Second}))
	var cut, waiting later
	for range 4 {
		cut.ask(f, f.nodes[0], question{stream: true, patience: 2 * time.Minute})
	}
	gatewaytest.Within(t, 5*time.Second, "A holds all slots", func() bool { return f.inFlight("a", 1) == 4 })
	begun := time.Now()
	f.sim.Set("", lasting(100*time.Millisecond, 100*time.Millisecond))
	for i := range 8 {
		waiting.ask(f, f.nodes[1+i%2], question{patience: 2 * time.Minute})
	}
	// Longer than until the leases are renewed for the first time.
	time.Sleep(renewEvery + 2*time.Second)
	f.nodes[0].Kill()
	killed := time.Now()
	cut.all.Wait()
	gatewaytest.Within(t, 5*time.Second, "the upstream sees A's connections break", func() bool { return f.inFlight("a", 1) == 0 })

	books := f.books()
	place := places("a", 1)
	time.Sleep(time.Until(killed.Add(leaseTTL - renewEvery - 500*time.Millisecond)))
	if n := f.inUse(books, place...); n != 4 {
		t.Errorf("%d of A's 4 slots are in use %v after they were taken, and %v after A's death", n, time.Since(begun), time.Since(killed))
	}
	waiting.all.Wait()
	wantWhole(t, waiting.answers)
	for i, at := range waiting.at {
		if after := at.Sub(killed); after < leaseTTL-renewEvery || after > leaseTTL+2*time.Second {
			t.Errorf("request %d in line was answered %v after A's death", i, after)
		}
	}
	t.Logf("the first in line was answered %v after A's death", waiting.at[0].Sub(killed).Round(time.Millisecond))
	if most := f.most("a", 1)[0]; most > 4 {
		t.Errorf("%d requests were in flight at an account of 4 slots", most)
	}
	f.wantFree(place...)
	f.wantLedger(time.Time{})
}

// wantWhole fails the test unless all answers are whole.
func wantWhole(t *testing.T, answers []answer) {
	t.Helper()
	for _, a := range answers {
		if !a.whole() {
			t.Error(a)
		}
	}
}
