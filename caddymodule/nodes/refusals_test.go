package nodes_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/internal/redistest"
)

const (
	// refusalsVariable, "all", runs all of TestRefusals and TestNeighbours.
	refusalsVariable = "SUB2API_TEST_REFUSALS"
	// sideBySide is how many of its rows run at once: they wait most of the time.
	sideBySide = 10

	// refusedFor is how long Redis refuses, soon how long after it began, and
	// ended, a gateway may take to act upon it.
	refusedFor = 2 * time.Second
	soon       = time.Second
	backWithin = 3 * time.Second
	// hang is when an answer is taken for one that never comes.
	hang = 5 * time.Second
)

// redisPassword must be in no log.
const redisPassword = "open-sesame"

// refusing is a Redis that can refuse what it is asked.
type refusing struct {
	name string
	url  string
	// words are how Redis says why.
	words *regexp.Regexp
	// begin has it refuse, and returns what ends that.
	begin func(*testing.T) (end func())
}

// silent are the words for a Redis that says nothing.
var silent = map[string]string{
	"silence": "timeout|deadline exceeded", "silence at login": "timeout|deadline exceeded", "lost answers": "timeout|deadline exceeded",
	"cut": "EOF|reset|broken pipe|closed", "cut at once": "EOF|reset|broken pipe|closed", "hangup": "EOF|reset|broken pipe|closed",
	"garbage": regexp.QuoteMeta("HTTP/1.1 400 Bad Request"),
}

// proxied is a server behind a Refuser.
func proxied(t *testing.T, server *redistest.Server, f redistest.Refusal) refusing {
	refuser := redistest.StartRefuser(t, server)
	words := silent[f.Name]
	if words == "" {
		said, _, _ := strings.Cut(f.Text, "%s")
		words = regexp.QuoteMeta(said)
	}
	return refusing{f.Name, refuser.URL, regexp.MustCompile(words), func(t *testing.T) func() {
		refuser.Refuse(f)
		if f.To == redistest.Logins || f.To == redistest.Connections {
			refuser.Disconnect()
		}
		return refuser.Recover
	}}
}

// troubled is a server that gets into trouble.
func troubled(t *testing.T, trouble redistest.Trouble) refusing {
	server := redistest.Start(t, trouble.Options...)
	return refusing{"real " + trouble.Name, server.URL, regexp.MustCompile(regexp.QuoteMeta(trouble.Words)), func(t *testing.T) func() { return trouble.Begin(t, server) }}
}

// circumstances are when Redis refuses, and what then becomes of requests.
type circumstances struct{ atStart, refuse bool }

func (c circumstances) String() string {
	when, then := "in mid-flight", "serve"
	if c.atStart {
		when = "at the start"
	}
	if c.refuse {
		then = "refuse"
	}
	return when + "/" + then
}

var allCircumstances = []circumstances{{false, false}, {false, true}, {true, false}, {true, true}}

// usualRefusals are what runs where refusalsVariable is not set.
var usualRefusals = map[string][]circumstances{
	"WRONGPASS":                {{false, true}, {true, false}},
	"NOPERM to scripts":        {{false, false}},
	"LOADING":                  {{true, true}},
	"OOM":                      {{false, false}},
	"silence":                  {{false, true}},
	"hangup":                   {{false, false}},
	"real user without writes": {{true, false}},
	"real maxmemory":           {{false, true}},
	"real maxclients":          {{false, false}},
}

// TestRefusals: whatever Redis says, or fails to say, it is out of reach then, and
// nothing is lost or counted twice.
func TestRefusals(t *testing.T) {
	redistest.Require(t)
	wanted := func(name string) []circumstances {
		if os.Getenv(refusalsVariable) == "all" {
			return allCircumstances
		}
		return usualRefusals[name]
	}
	type row struct {
		name string
		run  func(*testing.T)
	}
	var rows []row
	// Gateways have a namespace each, and share a server.
	closed, open := redistest.Start(t, redistest.Password(redisPassword)), redistest.Start(t)
	for _, f := range redistest.Refusals() {
		for _, when := range wanted(f.Name) {
			server := closed
			if f.Name == "NOAUTH" { // what a gateway without a password hears
				server = open
			}
			rows = append(rows, row{f.Name + "/" + when.String(), func(t *testing.T) { outlast(t, proxied(t, server, f), when) }})
		}
	}
	for _, trouble := range redistest.Troubles() {
		for _, when := range wanted("real " + trouble.Name) {
			rows = append(rows, row{"real " + trouble.Name + "/" + when.String(), func(t *testing.T) { outlast(t, troubled(t, trouble), when) }})
		}
	}
	queue := make(chan row)
	var workers sync.WaitGroup
	for range sideBySide {
		workers.Go(func() {
			for row := range queue {
				t.Run(row.name, row.run)
			}
		})
	}
	for _, row := range rows {
		queue <- row
	}
	close(queue)
	workers.Wait()
}

// ordeal is a gateway whose Redis refuses for a while.
type ordeal struct {
	*fleet
	*meter
	gateway *gatewaytest.Gateway
	when    circumstances

	began, ended, back time.Time // of the refusal; back: Redis is used again

	mu   sync.Mutex
	seen []sighting
}

// sighting is an answer with when it was asked for.
type sighting struct {
	answer
	asked time.Time
}

// outlast is the story of one gateway: its Redis refuses, and is well again.
func outlast(t *testing.T, redis refusing, when circumstances) {
	var end func()
	o := &ordeal{meter: &meter{}, when: when}
	if when.atStart {
		end = redis.begin(t)
		o.began = time.Now()
	}
	p := plan{
		urls: []string{redis.url}, accounts: accounts("a", 1, 0, sonnet), gateways: 1,
		namespace: fmt.Sprintf("row-%d", serial.Add(1)),
	}
	if when.refuse {
		p.words = "on_outage refuse"
	}
	o.fleet = launch(t, p)
	o.gateway = o.nodes[0]
	if took := time.Since(o.began); when.atStart && took > hang+startOfCaddy {
		t.Errorf("the gateway started in %v", took)
	}
	o.measure(o.script(10*time.Millisecond, 40*time.Millisecond))
	stop := o.watch(2)
	defer stop()
	if !when.atStart {
		time.Sleep(700 * time.Millisecond)
		o.began = time.Now()
		end = redis.begin(t)
	}
	time.Sleep(soon)
	o.lookAround(true)
	time.Sleep(max(0, time.Until(o.began.Add(refusedFor))))
	end()
	o.ended = time.Now()
	o.waitForRedis()
	time.Sleep(max(0, time.Until(o.ended.Add(backWithin))))
	o.lookAround(false)
	stop()
	o.wantAnswers()
	o.wantBooks(o.gateway, backWithin, o.totals(), nil)
	o.wantLog(redis.words)
}

// startOfCaddy is how long the process itself takes on a busy machine.
const startOfCaddy = 10 * time.Second

// watch has clients ask, until stop is called.
func (o *ordeal) watch(clients int) (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	for range clients {
		running.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(30 * time.Millisecond):
				}
				asked := time.Now()
				a := o.ask(o.gateway, question{stream: rand.IntN(2) == 0, patience: 2 * hang})
				o.mu.Lock()
				o.seen = append(o.seen, sighting{a, asked})
				o.mu.Unlock()
			}
		})
	}
	return sync.OnceFunc(func() {
		close(done)
		running.Wait()
	})
}

// lookAround asks what else a gateway is asked while Redis refuses, and after.
func (o *ordeal) lookAround(out bool) {
	o.t.Helper()
	whileOut := map[bool]string{true: "while Redis refuses", false: "afterwards"}[out]
	want := http.StatusOK
	if out && o.when.refuse {
		want = http.StatusServiceUnavailable
	}
	began := time.Now()
	if status, _, err := o.remaining(o.gateway, 0); err != nil || status != want {
		o.t.Errorf("%s, /v1/usage: status %d, %v; want %d", whileOut, status, err, want)
	}
	var any any
	if status, err := o.admin(o.gateway, "GET", "users", nil, &any); status == http.StatusInternalServerError || status == 0 || !out && err != nil {
		o.t.Errorf("%s, the admin API: status %d, %v", whileOut, status, err)
	}
	if status, err := o.admin(o.gateway, "GET", "health", nil, &any); status != want && status != http.StatusNotFound { // gateways may have none
		o.t.Errorf("%s, the health: status %d, %v; want %d", whileOut, status, err, want)
	}
	if took := time.Since(began); took > hang {
		o.t.Errorf("%s, the answers to three questions took %v", whileOut, took)
	}
}

// waitForRedis waits until the record of a request that is made after the refusal's
// end is in Redis.
func (o *ordeal) waitForRedis() {
	o.t.Helper()
	for {
		var id string
		if a := o.ask(o.gateway, question{patience: hang}); a.whole() {
			id = a.header.Get("Request-Id")
		}
		records, err := o.entries(o.gateway)
		if _, ok := records[id]; err == nil && ok {
			o.back = time.Now()
			break
		}
		if time.Since(o.ended) > 4*backWithin {
			o.t.Errorf("requests do not go through Redis %v after it was well again (%v)", 4*backWithin, err)
			o.back = time.Now()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	if took := o.back.Sub(o.ended); took > backWithin {
		o.t.Errorf("requests went through Redis again only %v after it was well", took)
	}
}

// wantAnswers looks at all answers that clients got.
func (o *ordeal) wantAnswers() {
	o.t.Helper()
	var wrong []string
	refused, whole := 0, 0
	for _, s := range o.seen {
		out := s.asked.After(o.began.Add(-hang)) && s.asked.Before(o.back)
		surelyOut := s.asked.After(o.began.Add(soon)) && s.asked.Add(s.took).Before(o.ended)
		var problem string
		switch {
		case s.took > hang:
			problem = "too late"
		case s.whole():
			whole++
			if o.when.refuse && surelyOut {
				problem = "served"
			}
		case o.when.refuse && out && isStoreRefusal(s.answer):
			refused++
		default:
			problem = "failed"
		}
		if problem != "" {
			wrong = append(wrong, fmt.Sprintf("%s, %v after the refusal began: %v", problem, s.asked.Sub(o.began).Round(time.Millisecond), s.answer))
		}
	}
	if len(wrong) > 0 {
		o.t.Errorf("%d of %d answers are wrong:%s", len(wrong), len(o.seen), gatewaytest.List(wrong))
	}
	if whole == 0 || o.when.refuse && refused == 0 {
		o.t.Errorf("of %d requests %d were answered, and %d refused", len(o.seen), whole, refused)
	}
}

// isStoreRefusal reports whether an answer says that the store is out of reach.
func isStoreRefusal(a answer) bool {
	return a.err == nil && a.status == http.StatusServiceUnavailable && a.header.Get("Retry-After") != "" &&
		strings.HasPrefix(a.body, `{"type":"error","error":{"type":"api_error"`)
}

// logLine is a line of Caddy's log.
type logLine struct {
	Level, Msg, Logger string
	text               string
}

func logLines(log string) (lines []logLine) {
	for text := range strings.Lines(log) {
		line := logLine{text: text}
		if json.Unmarshal([]byte(text), &line) == nil {
			lines = append(lines, line)
		}
	}
	return lines
}

// wantLog wants one line that Redis is out of reach, in its own words, one that it
// is back, and no password.
func (o *ordeal) wantLog(words *regexp.Regexp) {
	o.t.Helper()
	log := o.gateway.Log()
	lines := logLines(log)
	var out, back, why []logLine
	for _, line := range lines {
		if strings.HasPrefix(line.Msg, "Redis is out of reach") {
			out = append(out, line)
		}
		if strings.HasPrefix(line.Msg, "Redis is back") {
			back = append(back, line)
		}
		// Each request that fails may say why it did, here and in the admin API.
		ofRequest := strings.HasPrefix(line.Msg, "a request failed") || line.Logger == "admin.api"
		if (line.Level == "error" || line.Level == "warn") && words.MatchString(line.text) && !ofRequest {
			why = append(why, line)
		}
	}
	if len(out) != 1 || !words.MatchString(out[0].text) {
		o.t.Errorf("the log says %d times that Redis is out of reach, and is to say it once, with %q:%s", len(out), words, gatewaytest.List(texts(out)))
	}
	if len(back) != 1 {
		o.t.Errorf("the log says %d times that Redis is back:%s", len(back), gatewaytest.List(texts(back)))
	}
	most := 1
	if o.when.atStart { // why the config waits, too
		most = 2
	}
	if len(why) > most {
		o.t.Errorf("the log says %d times why:%s", len(why), gatewaytest.List(texts(why)))
	}
	for _, secret := range []string{redisPassword, redistest.TroublePassword, url.QueryEscape(redistest.TroublePassword)} {
		if i := strings.Index(log, secret); i >= 0 {
			o.t.Errorf("the log holds the password: …%.200s", log[max(0, i-100):])
		}
	}
}

func texts(lines []logLine) (out []string) {
	for _, line := range lines {
		out = append(out, strings.TrimSpace(line.text))
	}
	return slices.Compact(out)
}
