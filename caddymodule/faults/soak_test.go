package faults_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

const (
	soakAccounts = 8
	soakSlots    = 4   // of each
	soakClients  = 24  // more than half of the slots, so that some wait
	soakRate     = 200 // requests a second
	// soakHarm: one answer in so many goes wrong.
	soakHarm = 8
)

// soak is a gateway under mixed faults.
type soak struct {
	*gateway
	seed    uint64
	next    atomic.Int64
	scripts sync.Map // number in text → *script

	mu       sync.Mutex
	outcomes map[string]int
	reached  int // requests whose client stayed, and that an account was asked for
	errors   int
}

// TestSoak serves mixed faults for a while (SUB2API_TEST_SOAK, 3s), with clients
// that leave and configs that change under way. No answer may be spliced, and
// the process must not grow: it is measured when it has warmed up, and at the
// end.
func TestSoak(t *testing.T) {
	length := 3 * time.Second
	if text := os.Getenv("SUB2API_TEST_SOAK"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatalf("SUB2API_TEST_SOAK: %v", err)
		}
	}
	leaks := watchLeaks(t)
	s := &soak{seed: fromEnv(t, "SUB2API_TEST_SEED", rand.Uint64()), outcomes: map[string]int{}}
	t.Logf("SUB2API_TEST_SEED=%d", s.seed)
	s.gateway = serve(t, simulatorConfig, quiet, soakConfig(0))
	s.sim.Set("", s.say)
	s.run(length / 4)
	warm := s.rest()
	t.Logf("warm: %s", warm)
	s.run(length - length/4)
	after := s.rest()
	t.Logf("at the end: %s; outcomes: %v", after, s.outcomes)
	// A connection that idles is two descriptors and four goroutines here, with
	// both its ends. How many idle is chance.
	const idle = soakAccounts * soakSlots
	if after.descriptors > warm.descriptors+2*idle || after.goroutines > warm.goroutines+4*idle {
		t.Errorf("it grew from %s to %s", warm, after)
	}
	if limit := warm.heap + warm.heap/4 + 8<<20; after.heap > limit {
		t.Errorf("the heap grew from %s to %s", warm, after)
	}
	if s.outcomes["whole"] == 0 || s.outcomes["left"] == 0 || s.outcomes["part"]+s.outcomes["refused"] == 0 {
		t.Errorf("this was no mixture: %v", s.outcomes)
	}
	// Whether one whose client left had reached an account is not known here.
	if n, least := len(s.records()), s.reached; n < least || n > least+s.outcomes["left"] {
		t.Errorf("%d records of %d requests that reached an account, and %d whose client left", n, least, s.outcomes["left"])
	}
	s.sim.Close()
	leaks.check()
}

// soakConfig has accounts that come last for a moment only, and something that
// differs from one config to the next.
func soakConfig(n int) string {
	var out strings.Builder
	for i := range soakAccounts {
		fmt.Fprintf(&out, "account %ssoak%d {\n"+credentials[i%len(credentials)].words+"\nbase_url SIM\nconcurrency %d\n}\n",
			accountName, i, soakCredential(i), soakSlots)
	}
	fmt.Fprintf(&out, `
	scheduling {
		sticky_ttl 2s
		overload_cooldown 50ms
		rate_limit_cooldown 50ms
	}
	retry {
		attempts 1
		delay 1ms
		max_switches %d
	}
	relay {
		header_timeout 1s
		answer_timeout 1s
		first_event_timeout 1s
		idle_timeout 800ms
		keepalive 20ms after 20ms
		on_disconnect %s
	}
	`, 3+n%2, []string{"cancel", "drain 2s"}[n%2])
	// At a hundredth of the price, the balances last for an hour.
	return out.String() + strings.Replace(users(soakClients, 0), "group default", "group default {\nrate_multiplier 0.01\n}", 1)
}

func soakCredential(i int) string { return fmt.Sprintf("%ssoak%d", upstreamSecret, i) }

// run sends requests at the rate, and changes the config every second.
func (s *soak) run(length time.Duration) {
	ctx, stop := context.WithTimeout(context.Background(), length)
	defer stop()
	var done sync.WaitGroup
	work := make(chan *script)
	for i := range soakClients {
		done.Go(func() {
			d := seeded(s.seed, uint64(1)<<32+uint64(i))
			for script := range work {
				s.one(script, worker(i), d)
			}
		})
	}
	done.Go(func() {
		for n := 1; ; n++ {
			select {
			case <-time.After(time.Second):
				s.load(quiet, soakConfig(n))
			case <-ctx.Done():
				return
			}
		}
	})
	tick := time.NewTicker(time.Second / soakRate)
	defer tick.Stop()
	for ctx.Err() == nil {
		<-tick.C
		n := s.next.Add(1)
		work <- &script{n: int(n), stream: n%3 > 0, model: "claude-sonnet-5-5"}
	}
	close(work)
	done.Wait()
}

// one sends a request, of which some clients don't wait for the end.
func (s *soak) one(script *script, user string, d draw) {
	number := strconv.Itoa(script.n)
	s.scripts.Store(number, script)
	defer s.scripts.Delete(number)
	ctx := context.Background()
	leaves := d.once(20)
	if leaves {
		var leave context.CancelFunc
		ctx, leave = context.WithTimeout(ctx, time.Duration(d(15000))*time.Microsecond)
		defer leave()
	}
	script.got = s.fetch(ctx, user, script.model, script.stream, number)
	outcome, err := "left", error(nil)
	if !leaves || script.got.err == nil {
		outcome, err = s.judge(script)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outcomes[outcome]++
	if outcome != "left" && len(script.answers()) > 0 {
		s.reached++
	}
	if err != nil {
		if s.errors++; s.errors <= 10 {
			s.t.Errorf("script %d, stream %t: %v\ngot %d %q\n%s", script.n, script.stream, err, script.got.status, script.got.body, script.describe())
		}
	}
}

func (s *soak) judge(script *script) (string, error) {
	script.mu.Lock()
	defer script.mu.Unlock()
	v, err := judge(&script.got, script.asked, script.stream)
	switch {
	case script.got.status == 0 && len(script.asked) == 0:
		return "unsent", nil // on an idle connection that a new config closed just then
	case err != nil:
		return "wrong", err
	case v.whole:
		return "whole", nil
	case v.of != nil:
		return "part", nil
	}
	return "refused", nil
}

// say answers a request with what its script's next answer is.
func (s *soak) say(r *simulator.Request) simulator.Reply {
	number := gjson.GetBytes(r.Body, "messages.0.content").Str
	value, ok := s.scripts.Load(number)
	if !ok {
		return simulator.Reply{} // its client has left, or it is the gateway's own question
	}
	script := value.(*script)
	script.mu.Lock()
	defer script.mu.Unlock()
	account := strings.Replace(r.Credential, upstreamSecret, accountName, 1)
	d := seeded(s.seed, uint64(script.n)<<8+uint64(len(script.asked)))
	said := answerOf(d, account, fmt.Sprintf("s%d.%d", script.n, len(script.asked)), script.model, script.model, script.stream, soakHarm)
	said.reply.FirstDelay = time.Duration(d(30)) * time.Millisecond
	script.asked = append(script.asked, said)
	return said.reply
}

// rest measures when nothing is under way any more.
func (s *soak) rest() resources {
	s.waitUpstream("all answers are over", func() bool {
		for i := range soakAccounts {
			if s.sim.Account(soakCredential(i)).InFlight > 0 {
				return false
			}
		}
		return true
	})
	s.http.CloseIdleConnections()
	least := measure(s.t)
	for range 20 { // what is about to end, ends
		time.Sleep(10 * time.Millisecond)
		if m := measure(s.t); m.goroutines < least.goroutines {
			least = m
		}
	}
	return least
}
