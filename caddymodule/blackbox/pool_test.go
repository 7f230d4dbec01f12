package blackbox_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// member is an account of the pool.
type member struct{ name, priority, slots int }

func (m member) secret() string { return fmt.Sprintf("%s%02d", upstreamSecret, m.name) }

// pool has ten accounts with 220 slots: two lines of priority that 200 sessions
// fill, and a third that shares the rest.
func pool() (members []member) {
	for i := range 10 {
		switch {
		case i < 3:
			members = append(members, member{i, 10, 20})
		case i < 6:
			members = append(members, member{i, 20, 30})
		default:
			members = append(members, member{i, 30, 20})
		}
	}
	return members
}

const sessions = 200

// TestTenAccountsAndTwoHundredSessions runs turns of streams on all sessions at
// once: the first turn spreads them, later ones stay, and the failing of two
// accounts moves theirs and nobody else's.
func TestTenAccountsAndTwoHundredSessions(t *testing.T) {
	members := pool()
	var accounts strings.Builder
	for _, m := range members {
		fmt.Fprintf(&accounts, "account acct-%02d {\napi_key %s\nbase_url SIM\npriority %d\nconcurrency %d\n}\n", m.name, m.secret(), m.priority, m.slots)
	}
	g := serve(t, simulator.Config{Keep: 2000}, accounts.String()+alice+"scheduling {\nsticky_max_waiting 100\n}\n")

	// The first turn is held upstream until all 200 are there.
	arrived := make(chan struct{})
	g.sim.Set("", func(*simulator.Request) simulator.Reply {
		<-arrived
		return simulator.Reply{Deltas: 20}
	})
	turn := g.startTurn()
	g.waitUpstream("all sessions are upstream", func() bool { return len(g.sim.Requests()) == sessions })
	shares := map[int]int{}
	for _, m := range members {
		shares[m.name] = g.sim.Account(m.secret()).InFlight
	}
	// Lower priorities are full before higher ones begin, and the last ones,
	// equal, share evenly.
	want := map[int]int{0: 20, 1: 20, 2: 20, 3: 30, 4: 30, 5: 30, 6: 13, 7: 13, 8: 12, 9: 12}
	if diff := cmp.Diff(tally(want), tally(shares)); diff != "" {
		t.Errorf("shares of the accounts: %s", diff)
	}
	close(arrived)
	turn.wantAllWell(t, g)
	homes := g.homes(0)

	g.sim.Set("", simulator.Always(simulator.Reply{Deltas: 20, Pause: time.Millisecond}))
	for range 3 {
		from := len(g.sim.Requests())
		g.startTurn().wantAllWell(t, g)
		if diff := cmp.Diff(homes, g.homes(from)); diff != "" {
			t.Errorf("sessions moved: %s", diff)
		}
	}

	limited, overloaded := members[2], members[6]
	g.sim.Set(limited.secret(), simulator.Always(simulator.Reply{Status: 429}))
	g.sim.Set(overloaded.secret(), simulator.Always(simulator.Reply{Status: 529}))
	from := len(g.sim.Requests())
	g.startTurn().wantAllWell(t, g)
	moved := g.homes(from)
	for session, home := range homes {
		was, is := home, moved[session]
		failed := was == limited.secret() || was == overloaded.secret()
		if failed == (was == is) {
			t.Errorf("session %s went from %s to %s", session, was, is)
		}
	}
	// The accounts are out and the moved sessions at home.
	failures := g.sim.Account(limited.secret()).Messages + g.sim.Account(overloaded.secret()).Messages
	from = len(g.sim.Requests())
	g.startTurn().wantAllWell(t, g)
	if diff := cmp.Diff(moved, g.homes(from)); diff != "" {
		t.Errorf("sessions moved again: %s", diff)
	}
	if again := g.sim.Account(limited.secret()).Messages + g.sim.Account(overloaded.secret()).Messages; again != failures {
		t.Errorf("accounts that are out were asked %d times", again-failures)
	}
	for _, m := range members {
		if most := g.sim.Account(m.secret()).MaxInFlight; most > m.slots {
			t.Errorf("account %d had %d requests in flight, of %d slots", m.name, most, m.slots)
		}
	}
	if records := g.records(); len(records) != 6*sessions {
		t.Errorf("%d records of %d requests", len(records), 6*sessions)
	}
}

// tally counts the accounts with equal shares: which of equals got one more is
// nobody's concern.
func tally(shares map[int]int) map[int]int {
	out := map[int]int{}
	for _, n := range shares {
		out[n]++
	}
	return out
}

// turn is one request of every session, all at once.
type turn struct {
	done    sync.WaitGroup
	answers [sessions]answer
}

func (g *gateway) startTurn() *turn {
	turn := new(turn)
	for i := range sessions {
		turn.done.Go(func() {
			turn.answers[i] = g.do(call{body: fmt.Sprintf(
				`{"model":"claude-sonnet-5-5","max_tokens":64,"stream":true,"metadata":{"user_id":"user_x_account__session_%08d-0000-4000-8000-000000000000"},"messages":[{"role":"user","content":"hi"}]}`, i)})
		})
	}
	return turn
}

// wantAllWell waits for the turn: no client may see an error.
func (turn *turn) wantAllWell(t *testing.T, g *gateway) {
	t.Helper()
	turn.done.Wait()
	for i, a := range turn.answers {
		if a.status != 200 || a.err != nil || !bytes.HasSuffix(a.body, []byte("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")) || bytes.Contains(a.body, []byte("event: error")) {
			t.Fatalf("session %d: %d %v %s", i, a.status, a.err, a.body)
		}
	}
}

// homes tells by session which account served it, in the requests from the
// given one on.
func (g *gateway) homes(from int) map[string]string {
	out := map[string]string{}
	for _, r := range g.sim.Requests()[from:] {
		if r.Status == 200 {
			_, session, _ := strings.Cut(string(r.Body), "session_")
			out[session[:8]] = r.Credential
		}
	}
	return out
}
