package faults_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// script is one request, and what its accounts will do.
type script struct {
	n        int
	stream   bool
	model    string
	accounts []*actor

	mu    sync.Mutex
	asked []*said // the answers that were given, in this order
	got   transcript
	of    verdict
}

// actor is an account of a script.
type actor struct {
	name  string
	kind  int    // of credentials
	sent  string // the model's name that it gets
	says  []*said
	asked int
	// questions of the gateway's own that it was asked, and whether it refuses them.
	questions int
	refuses   bool
}

// fromEnv is a number from the environment.
func fromEnv(t testing.TB, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%s is not a number", name, text)
	}
	return n
}

// TestNoSplice plays random scripts. Whatever the accounts do, a client gets one
// answer whole, or the beginning of one and an error event, or one error; and
// what is recorded and charged is that answer's use alone.
//
// SUB2API_TEST_SCRIPTS is how many are played (500), SUB2API_TEST_SEED plays
// those of an earlier run.
func TestNoSplice(t *testing.T) {
	count := int(fromEnv(t, "SUB2API_TEST_SCRIPTS", 500))
	seed := fromEnv(t, "SUB2API_TEST_SEED", rand.Uint64())
	t.Logf("SUB2API_TEST_SEED=%d", seed)
	const batch = 250 // accounts go out: each script has its own
	outcomes := map[string]int{}
	for first := 0; first < count && !t.Failed(); first += batch {
		var scripts []*script
		for n := first; n < min(first+batch, count); n++ {
			scripts = append(scripts, newScript(n, seeded(seed, uint64(n))))
		}
		// A quarter of the batches has clients that hear comments all the time.
		keepalive := "0s"
		if first/batch%4 == 1 {
			keepalive = "2ms after 2ms"
		}
		t.Run(fmt.Sprintf("from %d", first), func(t *testing.T) { playBatch(t, scripts, keepalive, outcomes) })
	}
	t.Logf("outcomes: %v", outcomes)
	for _, outcome := range []string{"whole", "part", "refused"} {
		if outcomes[outcome] < count/50 {
			t.Errorf("only %d of %d scripts came out %s", outcomes[outcome], count, outcome)
		}
	}
}

func newScript(n int, d draw) *script {
	s := &script{n: n, stream: d(3) > 0, model: fmt.Sprintf("m%d-sonnet", n)}
	for k := range 1 + d(5) {
		a := &actor{name: fmt.Sprintf("%ss%d-%d", accountName, n, k), kind: d(len(credentials)), sent: s.model, refuses: d.once(2)}
		if strings.Contains(credentials[a.kind].words, "api_key") && d.once(3) {
			a.sent = fmt.Sprintf("up%d-%d", n, k)
		}
		for i := range 2 * (1 + attempts) { // each may be sent once more
			a.says = append(a.says, answerOf(d, a.name, fmt.Sprintf("s%d.%d.%d", n, k, i), s.model, a.sent, s.stream, 2))
		}
		s.accounts = append(s.accounts, a)
	}
	return s
}

func (a *actor) credential() string { return upstreamSecret + strings.TrimPrefix(a.name, accountName) }

func (s *script) config(out *strings.Builder) {
	for k, a := range s.accounts {
		fmt.Fprintf(out, "account %s {\n"+credentials[a.kind].words+"\nbase_url SIM\npriority %d\nmodels {\n%s %s\n}\n}\n",
			a.name, a.credential(), k, s.model, a.sent)
	}
}

// say is what the account does next.
func (s *script) say(credential string) simulator.Reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.accounts {
		if a.credential() == credential && a.asked < len(a.says) {
			said := a.says[a.asked]
			a.asked++
			s.asked = append(s.asked, said)
			return said.reply
		}
	}
	return simulator.Reply{Status: http.StatusTeapot} // asked too often
}

// answer is what the account says to the gateway's own question.
func (s *script) answer(credential string) simulator.Reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.accounts {
		if a.credential() == credential {
			a.questions++
			if a.refuses {
				return simulator.Reply{Status: http.StatusForbidden}
			}
		}
	}
	return simulator.Reply{}
}

// answers are those that were given. The goroutines that gave them are the
// upstream's.
func (s *script) answers() []*said {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asked)
}

func playBatch(t *testing.T, scripts []*script, keepalive string, outcomes map[string]int) {
	var config strings.Builder
	for _, s := range scripts {
		s.config(&config)
	}
	fmt.Fprintf(&config, "retry {\nattempts %d\ndelay 1ms\n}\nrelay {\nheader_timeout 300ms\nanswer_timeout 300ms\nfirst_event_timeout 300ms\nidle_timeout 250ms\nkeepalive %s\n}\n", attempts, keepalive)
	const workers = 8
	g := serve(t, simulatorConfig, quiet, config.String()+users(workers, 1))
	byNumber, byCredential := map[string]*script{}, map[string]*script{}
	for _, s := range scripts {
		byNumber[strconv.Itoa(s.n)] = s
		for _, a := range s.accounts {
			byCredential[a.credential()] = s
		}
	}
	g.sim.Set("", func(r *simulator.Request) simulator.Reply {
		if isQuestion(r) {
			return byCredential[r.Credential].answer(r.Credential)
		}
		return byNumber[gjson.GetBytes(r.Body, "messages.0.content").Str].say(r.Credential)
	})
	var done sync.WaitGroup
	next := make(chan *script)
	for i := range workers {
		done.Go(func() {
			for s := range next {
				s.got = g.fetch(context.Background(), worker(i), s.model, s.stream, strconv.Itoa(s.n))
			}
		})
	}
	for _, s := range scripts {
		next <- s
	}
	close(next)
	done.Wait()
	records := g.records()
	asked := 0
	for _, s := range scripts {
		if err := s.check(records); err != nil {
			t.Errorf("script %d, stream %t: %v\ngot %d %q\n%s", s.n, s.stream, err, s.got.status, s.got.body, s.describe())
		}
		if len(s.answers()) > 0 {
			asked++
		}
		switch {
		case s.of.whole:
			outcomes["whole"]++
		case s.of.of != nil:
			outcomes["part"]++
		default:
			outcomes["refused"]++
		}
	}
	if len(records) != asked {
		t.Errorf("%d records of %d requests that reached an account", len(records), asked)
	}
}

func (s *script) check(records map[string]billing.Record) (err error) {
	if s.of, err = judge(&s.got, s.answers(), s.stream); err != nil {
		return err
	}
	r, ok := records[s.got.id]
	if !ok {
		return fmt.Errorf("no record of %s", s.got.id)
	}
	if asked := len(s.answers()); r.Attempts > asked || r.Attempts < asked-s.unnoticed() || r.Stream != s.stream {
		return fmt.Errorf("%d attempts, stream %t on record, of %d", r.Attempts, r.Stream, asked)
	}
	if err := s.checkTries(); err != nil {
		return err
	}
	if err := s.checkQuestions(); err != nil {
		return err
	}
	return checkUse(&r, s.of)
}

// unnoticed is how many answers may be no failures: a connection that had carried
// a request before, and ended before the answer, has the request sent once more.
func (s *script) unnoticed() (n int) {
	asked := s.answers()
	for i, said := range asked[:max(0, len(asked)-1)] {
		kind := said.reply.Fault.Kind
		ended := said.reply.Fault.After == simulator.BeforeHeader && (kind == simulator.Reset || kind == simulator.Cut)
		if ended && i > 0 && asked[i-1].account == said.account && asked[i+1].account == said.account {
			n++
		}
	}
	return n
}

// checkTries checks that no more accounts were asked than one answer is worth: at
// most three that give the same, after one that is late at most one other (none
// where it may be paid for), and none after a judgement of the request.
func (s *script) checkTries() error {
	var tries []*said // the last answer of each account, in the order of asking
	for _, said := range s.answers() {
		if n := len(tries); n > 0 && tries[n-1].account == said.account {
			tries[n-1] = said
		} else {
			tries = append(tries, said)
		}
	}
	same, seen := map[string]int{}, map[string]bool{}
	for i, said := range tries {
		others := len(tries) - 1 - i
		failure := said.failure()
		same[failure]++
		switch {
		case seen[said.account]:
			return fmt.Errorf("%s was asked again after others", said.account)
		case others == 0:
		case said.refusal && !said.absent:
			return fmt.Errorf("%d accounts were asked after %s had judged the request", others, said.account)
		case same[failure] >= 3:
			return fmt.Errorf("%d accounts were asked after three that answered %s", others, failure)
		case failure == late && (others > 1 || !s.stream):
			return fmt.Errorf("%d accounts were asked after one that did not answer in time", others)
		}
		seen[said.account] = true
	}
	return nil
}

// failure names what the answer is if it failed before its content.
func (s *said) failure() string {
	switch {
	case s.reply.Status >= 400:
		return fmt.Sprintf("%d, absent %t", s.reply.Status, s.absent)
	case endsInError(s.sent) && (!s.silent || endsEvent(s.sent)):
		return gjson.Get(s.events[len(s.events)-1], "error.type").Str
	case s.silent:
		return late
	}
	return "broken off"
}

const late = "no answer in time"

// endsEvent reports whether a stream ends with a blank line.
func endsEvent(stream []byte) bool {
	return strings.HasSuffix(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(string(stream)), "\n\n")
}

// checkQuestions checks that the gateway has asked those accounts alone that may
// be in error, and each once.
func (s *script) checkQuestions() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.accounts {
		may := 0
		for _, said := range a.says[:min(a.asked, len(a.says))] {
			status := said.reply.Status
			if status == 401 || (status == 402 || status == 403) && credentials[a.kind].name != "codes" {
				may = 1
			}
		}
		if a.questions > may {
			return fmt.Errorf("%s was asked %d times by the gateway itself, want at most %d", a.name, a.questions, may)
		}
	}
	return nil
}

// checkUse compares a record with the answer that its client got.
func checkUse(r *billing.Record, v verdict) error {
	s := v.of
	switch {
	case s == nil:
		if r.Input != 0 || r.Output != 0 || r.Charged != 0 || r.Billing != billing.PaidByNobody || r.Status < 400 {
			return fmt.Errorf("an error has the record %+v", r)
		}
		return nil
	case r.Account != s.account || r.Input != s.input || r.Status != 200 || r.Charged != r.Cost || r.Charged <= 0:
		return fmt.Errorf("the answer of %s, %d tokens in, has the record %+v", s.account, s.input, r)
	case v.whole && (r.Estimated || r.Output != s.outputs[len(s.outputs)-1]):
		return fmt.Errorf("%v tokens out have the record %+v", s.outputs, r)
	case r.Estimated && (r.Output < 1 || r.Output > 1+int64(len(s.sent)/4)):
		return fmt.Errorf("the estimate for %d bytes is %d", len(s.sent), r.Output)
	case !r.Estimated && !slices.Contains(s.outputs, r.Output):
		return fmt.Errorf("%d tokens out, upstream said %d", r.Output, s.outputs)
	}
	return nil
}

func (s *script) describe() string {
	var out strings.Builder
	for _, said := range s.answers() {
		fmt.Fprintf(&out, "%s: status %d, fault %+v, pieces %v, whole %t, sent %q\n", said.account, said.reply.Status, said.reply.Fault, said.reply.Pieces, said.whole, said.sent)
	}
	return out.String()
}

// fetch asks as a client without an SDK.
func (g *gateway) fetch(ctx context.Context, user, model string, stream bool, text string) (out transcript) {
	body := fmt.Sprintf(`{"model":"%s","max_tokens":64,"stream":%t,"messages":[{"role":"user","content":"%s"}]}`, model, stream, text)
	request, _ := http.NewRequestWithContext(ctx, http.MethodPost, g.url+"/v1/messages", strings.NewReader(body))
	request.Header.Set("X-Api-Key", keyOf(user))
	response, err := g.http.Do(request)
	if err != nil {
		return transcript{err: err}
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	noLeak(g.t, response.Header, string(got))
	return transcript{response.Header.Get("Request-Id"), response.StatusCode, string(got), err}
}
