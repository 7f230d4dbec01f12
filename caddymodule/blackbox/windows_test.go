package blackbox_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// What upstream says of its windows in an answer that is well is kept, and a window
// that is spent without overage takes the account out for what it is about.
func TestWindowsInGoodAnswers(t *testing.T) {
	soon, later := time.Now().Add(time.Hour).Truncate(time.Second), time.Now().Add(50*time.Hour).Truncate(time.Second)
	window := func(name, status string, reset time.Time, used float64) simulator.Window {
		return simulator.Window{Name: name, Status: status, Reset: reset, Utilization: used}
	}
	type kept struct {
		Name, Status string
		End          time.Time
		Utilization  float64
	}
	for _, test := range []struct {
		name      string
		limits    simulator.Limits
		kept      []kept
		opus, son string // which account serves the next request of another session
	}{
		{"all well", simulator.Limits{Claim: "five_hour", Windows: []simulator.Window{window("5h", "allowed", soon, 0.25), window("7d", "allowed_warning", later, 0.875)}},
			[]kept{{"5h", "allowed", soon, 0.25}, {"7d", "allowed_warning", later, 0.875}}, "a", "a"},
		{"families", simulator.Limits{Windows: []simulator.Window{window("7d", "allowed", later, 0.5), window("7d_opus", "allowed", soon, 0.75), window("7d_sonnet", "allowed", later, 0)}},
			[]kept{{"7d", "allowed", later, 0.5}, {"7d_opus", "allowed", soon, 0.75}, {"7d_sonnet", "allowed", later, 0}}, "a", "a"},
		{"RFC 3339", simulator.Limits{RFC3339: true, Windows: []simulator.Window{window("7d", "allowed", later, 0.5)}},
			[]kept{{"7d", "allowed", later, 0.5}}, "a", "a"},
		{"5h spent", simulator.Limits{Claim: "five_hour", Windows: []simulator.Window{window("5h", "rejected", soon, 1)}},
			[]kept{{"5h", "rejected", soon, 1}}, "b", "b"},
		{"7d spent", simulator.Limits{Claim: "seven_day", Windows: []simulator.Window{window("5h", "allowed", soon, 0.5), window("7d", "rejected", later, 1)}},
			[]kept{{"5h", "allowed", soon, 0.5}, {"7d", "rejected", later, 1}}, "b", "b"},
		{"opus spent", simulator.Limits{Claim: "seven_day_opus", Windows: []simulator.Window{window("7d_opus", "rejected", soon, 1)}},
			[]kept{{"7d_opus", "rejected", soon, 1}}, "b", "a"},
		{"5h spent, overage in use", simulator.Limits{Claim: "five_hour", Overage: "allowed", Windows: []simulator.Window{window("5h", "rejected", soon, 1.5)}},
			[]kept{{"5h", "rejected", soon, 1.5}}, "a", "a"},
		{"5h spent, overage in use with a warning", simulator.Limits{Claim: "five_hour", Overage: "allowed_warning", Windows: []simulator.Window{window("5h", "rejected", soon, 1.5)}},
			[]kept{{"5h", "rejected", soon, 1.5}}, "a", "a"},
		{"5h spent, overage too", simulator.Limits{Claim: "five_hour", Overage: "rejected", Windows: []simulator.Window{window("5h", "rejected", soon, 1)}},
			[]kept{{"5h", "rejected", soon, 1}}, "b", "b"},
	} {
		for _, stream := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stream %t", test.name, stream), func(t *testing.T) {
				g := serve(t, simulator.Config{}, accountsInOrder([]string{"a", "b"}, "")+alice)
				g.sim.Queue("sk-upstream-a", simulator.Reply{Limits: &test.limits})
				if a := g.say("claude-opus-5-5", stream); a.status != 200 {
					t.Fatalf("%d %s", a.status, a.body)
				}
				g.eventually("the store knows of the windows", func() bool { return len(g.accountState("acct-a").Windows) > 0 })
				check := func() {
					t.Helper()
					var got []kept
					for _, w := range g.accountState("acct-a").Windows {
						got = append(got, kept{w.Name, w.Status, w.End.Local(), w.Utilization})
						if length := w.End.Sub(w.Start); length != map[byte]time.Duration{'5': 5 * time.Hour, '7': 7 * 24 * time.Hour}[w.Name[0]] {
							t.Errorf("window %+v", w)
						}
					}
					if diff := cmp.Diff(test.kept, got); diff != "" {
						t.Errorf("kept: %s", diff)
					}
					for _, next := range [][2]string{{"claude-opus-5-5", test.opus}, {"claude-sonnet-5-5", test.son}} {
						from := len(g.sim.Requests())
						if a := g.do(inNewSession(next[0])); a.status != 200 {
							t.Errorf("%s: %d %s", next[0], a.status, a.body)
						}
						if diff := cmp.Diff([]string{next[1]}, g.askedSince(from)); diff != "" {
							t.Errorf("%s, accounts asked: %s", next[0], diff)
						}
					}
				}
				check()
				g.restart()
				check()
			})
		}
	}
}

// A window that upstream calls allowed again ends its own limit, and no other one.
func TestAClaimThatIsAllowedAgain(t *testing.T) {
	soon := time.Now().Add(time.Hour)
	spent := simulator.Limits{Claim: "seven_day_opus", Windows: []simulator.Window{{Name: "7d_opus", Status: "rejected", Reset: soon, Utilization: 1}}}
	for status, want := range map[string]string{"allowed": "a", "allowed_warning": "a", "rejected": "b", "": "b"} {
		t.Run("status "+status, func(t *testing.T) {
			g := serve(t, simulator.Config{}, accountsInOrder([]string{"a", "b"}, "")+alice)
			g.sim.Queue("sk-upstream-a", simulator.Reply{Status: 429, Limits: &spent})
			g.do(inNewSession("claude-opus-5-5"))
			reply := simulator.Reply{}
			if status != "" {
				reply.Limits = &simulator.Limits{Status: "allowed", Windows: []simulator.Window{{Name: "7d_opus", Status: status, Reset: soon, Utilization: 0.5}}}
			}
			g.sim.Queue("sk-upstream-a", reply)
			g.do(inNewSession("claude-sonnet-5-5"))
			from := len(g.sim.Requests())
			if a := g.do(inNewSession("claude-opus-5-5")); a.status != 200 {
				t.Errorf("%d %s", a.status, a.body)
			}
			if diff := cmp.Diff([]string{want}, g.askedSince(from)); diff != "" {
				t.Errorf("accounts asked: %s", diff)
			}
		})
	}
}

// sessionMoves reads the metric of a group.
func (g *gateway) sessionMoves(group string) int {
	g.t.Helper()
	a := g.do(call{method: http.MethodGet, path: "/metrics", key: "-"})
	if a.status != 200 {
		g.t.Fatalf("%d %s", a.status, a.body)
	}
	found := regexp.MustCompile(`caddy_sub2api_session_moves_total\{group="` + group + `"\} (\d+)`).FindSubmatch(a.body)
	if found == nil {
		return 0
	}
	n, err := strconv.Atoi(string(found[1]))
	if err != nil {
		g.t.Fatal(err)
	}
	return n
}

// A session that leaves its account loses what is kept for it there, so moves are
// counted and logged; a first choice is none, nor is staying.
func TestMovesOfSessionsAreCounted(t *testing.T) {
	g := serve(t, simulator.Config{}, accountsInOrder([]string{"a", "b"}, "")+alice, "metrics /metrics")
	const model = "claude-sonnet-5-5"
	before, logged := g.sessionMoves("default"), 0
	say := func(session string, moves int) {
		t.Helper()
		if a := g.do(inSession(session, asking(model, false))); a.status != 200 {
			t.Errorf("%d %s", a.status, a.body)
		}
		logged += moves
		if n := g.sessionMoves("default") - before; n != logged {
			t.Errorf("session %s: %d moves are counted, want %d", session, n, logged)
		}
		if n := g.logged("a session moved to another account"); n != logged {
			t.Errorf("session %s: %d moves are logged, want %d", session, n, logged)
		}
	}
	say("one", 0)
	say("one", 0)
	say("two", 0)
	g.sim.Queue("sk-upstream-a", simulator.Reply{Status: 529})
	say("one", 1) // to b
	say("one", 0)
	say("three", 0) // begins at b
	say("two", 0)   // asks its own account all the same, whose answer clears the mark
	say("four", 0)  // begins at a
	g.sim.Queue("sk-upstream-b", simulator.Reply{Status: 500})
	say("one", 1) // back to a
}
