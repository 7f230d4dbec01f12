package scheduler_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sub2api/caddy-sub2api/scheduler"
)

var (
	noon      = time.Date(2026, 12, 10, 12, 34, 56, 0, time.UTC)
	cooldowns = scheduler.Cooldowns{RateLimit: 5 * time.Minute, Overload: time.Minute, ErrorRetry: 10 * time.Minute}
)

const opus = "claude-opus-4"

// event is an outcome at a time after noon, of a request that was sent just
// before, unless the outcome says when.
type event struct {
	after   time.Duration
	outcome scheduler.Outcome
}

func accountStateAfter(events ...event) *scheduler.AccountState {
	var st scheduler.AccountState
	for _, e := range events {
		o := e.outcome
		if o.Sent.IsZero() {
			o.Sent = noon.Add(e.after - time.Nanosecond)
		}
		st.Apply(o, noon.Add(e.after), cooldowns)
	}
	return &st
}

// outcomes of requests for opus
var (
	success     = scheduler.Outcome{Kind: scheduler.Success, Status: 200, Model: opus}
	denied      = scheduler.Outcome{Kind: scheduler.Denied, Status: 403, Model: opus}
	throttled   = scheduler.Outcome{Kind: scheduler.Throttled, Status: 429, Model: opus}
	failed      = scheduler.Outcome{Kind: scheduler.Failed, Status: 529, Model: opus}
	absent      = scheduler.Outcome{Kind: scheduler.Absent, Status: 404, Model: opus}
	unreachable = scheduler.Outcome{Kind: scheduler.Unreachable, Model: opus}
	spent       = scheduler.Outcome{Kind: scheduler.SpendLimit, Status: 429, Model: opus}
)

func with(o scheduler.Outcome, change func(*scheduler.Outcome)) scheduler.Outcome {
	change(&o)
	return o
}

func sentAt(o scheduler.Outcome, after time.Duration) scheduler.Outcome {
	o.Sent = noon.Add(after)
	return o
}

func retryAfter(o scheduler.Outcome, d time.Duration) scheduler.Outcome {
	o.RetryAfter = d
	return o
}

// window is what upstream says of one window; a reset of 0 = not said.
func window(name, status string, reset time.Duration) scheduler.WindowReport {
	w := scheduler.WindowReport{Name: name, Status: status, Utilization: 0.5}
	if strings.HasSuffix(name, "opus") {
		w.Family = "opus"
	}
	if reset != 0 {
		w.Reset = noon.Add(reset)
	}
	return w
}

func limited(windows ...scheduler.WindowReport) scheduler.Outcome {
	return scheduler.Outcome{Kind: scheduler.Limited, Status: 429, Model: opus, Windows: windows}
}

// rejected is a five-hour window that is spent, for that long (0 = not said).
func rejected(d time.Duration) scheduler.Outcome {
	return retryAfter(limited(scheduler.WindowReport{Name: "5h", Status: "rejected"}), d)
}

func saying(o scheduler.Outcome, windows ...scheduler.WindowReport) scheduler.Outcome {
	o.Windows = windows
	return o
}

const (
	month = 22*24*time.Hour - (12*time.Hour + 34*time.Minute + 56*time.Second)
	never = -1 // not last, or open
)

func TestWhatKeepsAnAccountOut(t *testing.T) {
	fast := func(o *scheduler.Outcome) { o.Fast = true }
	tests := []struct {
		name   string
		events []event
		at     time.Duration
		model  string // default: opus
		fast   bool
		use    scheduler.Use
		until  time.Duration // after noon
		state  string
	}{
		{name: "nothing happened", use: scheduler.Available, state: "active"},
		{name: "a rejected window", events: []event{{0, limited(window("5h", "rejected", time.Hour))}}, use: scheduler.Blocked, until: time.Hour, state: "rate_limited"},
		{name: "two rejected windows: the later", events: []event{{0, limited(window("5h", "rejected", time.Hour), window("7d", "rejected", 2*time.Hour))}}, use: scheduler.Blocked, until: 2 * time.Hour, state: "rate_limited"},
		{name: "no reset said", events: []event{{0, limited(window("5h", "rejected", 0))}}, use: scheduler.Blocked, until: 5 * time.Minute, state: "rate_limited"},
		{name: "no reset said, but retry-after", events: []event{{0, retryAfter(limited(window("5h", "rejected", 0)), time.Hour)}}, use: scheduler.Blocked, until: time.Hour, state: "rate_limited"},
		{name: "a reset beyond reason", events: []event{{0, limited(window("7d", "rejected", 1000*time.Hour))}}, use: scheduler.Blocked, until: 8 * 24 * time.Hour, state: "rate_limited"},
		{name: "a family's window", events: []event{{0, limited(window("7d_opus", "rejected", time.Hour))}}, use: scheduler.Blocked, until: time.Hour, state: "active"},
		{name: "a family's window, another family", events: []event{{0, limited(window("7d_opus", "rejected", time.Hour))}}, model: "claude-sonnet-4", use: scheduler.Available, state: "active"},
		{name: "fast mode's limit", events: []event{{0, limited(window("fast", "rejected", time.Hour))}}, fast: true, use: scheduler.Blocked, until: time.Hour, state: "active"},
		{name: "fast mode's limit, slow", events: []event{{0, limited(window("fast", "rejected", time.Hour))}}, use: scheduler.Available, state: "active"},
		{name: "a family's and the account's", events: []event{{0, limited(window("5h", "rejected", time.Hour), window("7d_opus", "rejected", 3*time.Hour))}}, model: "claude-sonnet-4", use: scheduler.Blocked, until: time.Hour, state: "rate_limited"},
		{name: "served from overage", events: []event{{0, saying(success, scheduler.WindowReport{Name: "5h", Status: "rejected", Reset: noon.Add(time.Hour), Overage: true})}}, use: scheduler.Available, state: "active"},
		{name: "rejected in a success", events: []event{{0, saying(success, window("5h", "rejected", time.Hour))}}, use: scheduler.Blocked, until: time.Hour, state: "rate_limited"},
		{name: "a seven-day window rejected in a success", events: []event{{0, saying(success, window("7d", "rejected", time.Hour))}}, use: scheduler.Blocked, until: time.Hour, state: "rate_limited"},
		{name: "a spend limit", events: []event{{0, spent}}, use: scheduler.Blocked, until: month, state: "rate_limited"},
		{name: "never shortened", events: []event{{0, limited(window("5h", "rejected", time.Hour))}, {time.Second, limited(window("5h", "rejected", time.Minute))}}, use: scheduler.Blocked, until: time.Hour, state: "rate_limited"},
		{name: "lengthened", events: []event{{0, limited(window("5h", "rejected", time.Hour))}, {time.Second, limited(window("5h", "rejected", 2*time.Hour))}}, use: scheduler.Blocked, until: 2 * time.Hour, state: "rate_limited"},
		{name: "allowed again", events: []event{{0, limited(window("5h", "rejected", time.Hour))}, {time.Second, saying(success, window("5h", "allowed", time.Hour))}}, use: scheduler.Available, state: "active"},
		{name: "allowed again, with a warning", events: []event{{0, limited(window("5h", "rejected", time.Hour))}, {time.Second, saying(success, window("5h", "allowed_warning", time.Hour))}}, use: scheduler.Available, state: "active"},
		{name: "allowed, said to a request from before", events: []event{{0, limited(window("5h", "rejected", time.Hour))}, {time.Second, sentAt(saying(success, window("5h", "allowed", time.Hour)), -time.Second)}}, use: scheduler.Blocked, until: time.Hour, state: "rate_limited"},
		{name: "another claim allowed", events: []event{{0, limited(window("7d", "rejected", time.Hour))}, {time.Second, saying(success, window("5h", "allowed", time.Hour))}}, use: scheduler.Blocked, until: time.Hour, state: "rate_limited"},
		{name: "allowed in a failure", events: []event{{0, limited(window("5h", "rejected", time.Hour))}, {time.Second, saying(failed, window("5h", "allowed", time.Hour))}}, use: scheduler.Available, state: "active"},
		{name: "a success that says nothing", events: []event{{0, limited(window("5h", "rejected", time.Hour))}, {time.Second, success}}, use: scheduler.Blocked, until: time.Hour, state: "rate_limited"},
		{name: "on trial", events: []event{{0, limited(window("5h", "rejected", time.Hour))}}, at: time.Hour, use: scheduler.Trial, state: "active"},
		{name: "on trial for long", events: []event{{0, limited(window("5h", "rejected", time.Hour))}}, at: 1000 * time.Hour, use: scheduler.Trial, state: "active"},
		{name: "a trial is over with the header", events: []event{{0, limited(window("5h", "rejected", time.Hour))}, {time.Hour, scheduler.Outcome{Kind: scheduler.Answered, Status: 200, Model: opus}}}, at: time.Hour, use: scheduler.Available, state: "active"},
		{name: "a trial is over with a failure", events: []event{{0, limited(window("5h", "rejected", time.Hour))}, {time.Hour, failed}}, at: time.Hour + time.Minute, use: scheduler.Available, state: "active"},
		{name: "a trial without an answer is none", events: []event{{0, limited(window("5h", "rejected", time.Hour))}, {time.Hour, with(failed, func(o *scheduler.Outcome) { o.Status = 0 })}}, at: time.Hour + time.Minute, use: scheduler.Trial, state: "active"},
		{name: "a trial of another family", events: []event{{0, limited(window("7d_opus", "rejected", time.Hour))}, {time.Hour, with(success, func(o *scheduler.Outcome) { o.Model = "claude-sonnet-4" })}}, at: time.Hour, use: scheduler.Trial, state: "active"},
		{name: "a trial of slow mode is none of fast", events: []event{{0, limited(window("fast", "rejected", time.Hour))}, {time.Hour, success}}, at: time.Hour, fast: true, use: scheduler.Trial, state: "active"},
		{name: "a trial of fast mode", events: []event{{0, limited(window("fast", "rejected", time.Hour))}, {time.Hour, with(success, fast)}}, at: time.Hour, fast: true, use: scheduler.Available, state: "active"},
		{name: "a trial that is rejected", events: []event{{0, limited(window("5h", "rejected", time.Hour))}, {time.Hour, limited(window("5h", "rejected", 6*time.Hour))}}, at: time.Hour, use: scheduler.Blocked, until: 6 * time.Hour, state: "rate_limited"},
		{name: "no connection", events: []event{{0, unreachable}}, use: scheduler.Available, state: "overloaded"},
	}
	for _, bad := range []scheduler.Outcome{denied, throttled, failed, absent} {
		tests = append(tests, struct {
			name   string
			events []event
			at     time.Duration
			model  string
			fast   bool
			use    scheduler.Use
			until  time.Duration
			state  string
		}{name: fmt.Sprint("status ", bad.Status, " ten times"), events: func() (all []event) {
			for i := range 10 {
				all = append(all, event{time.Duration(i) * time.Second, bad})
			}
			return all
		}(), use: scheduler.Available, state: "active"})
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			st := accountStateAfter(test.events...)
			if test.model == "" {
				test.model = opus
			}
			v := st.Judge(noon.Add(test.at), test.model, test.fast, scheduler.Messages)
			want := time.Time{}
			if test.until != 0 {
				want = noon.Add(test.until)
			}
			if v.Use != test.use || !v.Until.Equal(want) {
				t.Errorf("use %d until %v, want %d until %v", v.Use, v.Until, test.use, want)
			}
			if word, _, why := st.Summary(noon.Add(test.at)); word != test.state {
				t.Errorf("state %s (%s), want %s", word, why, test.state)
			}
		})
	}
}

func TestWhatPutsAnAccountLast(t *testing.T) {
	early := -time.Second // sent before noon
	other := func(o *scheduler.Outcome) { o.Model = "claude-sonnet-4" }
	fast := func(o *scheduler.Outcome) { o.Fast = true }
	count := func(o *scheduler.Outcome) { o.Endpoint = scheduler.CountTokens }
	now := func(o *scheduler.Outcome) { o.RetryNow = true }
	tests := []struct {
		name   string
		events []event
		last   time.Duration // until when opus comes last, after noon; never = it does not
	}{
		{"throttled", []event{{0, throttled}}, 5 * time.Second},
		{"throttled twice", []event{{0, throttled}, {time.Minute, throttled}}, time.Minute + 10*time.Second},
		{"requests that were under way", []event{{0, throttled}, {time.Second, sentAt(throttled, early)}, {2 * time.Second, sentAt(throttled, early)}}, 5 * time.Second},
		{"doubled up to the cooldown", []event{{0, throttled}, {60 * time.Second, throttled}, {120 * time.Second, throttled}, {180 * time.Second, throttled}, {240 * time.Second, throttled}, {300 * time.Second, throttled}, {360 * time.Second, throttled}, {420 * time.Second, throttled}}, 720 * time.Second},
		{"overload's cooldown", []event{{0, failed}, {60 * time.Second, failed}, {120 * time.Second, failed}, {180 * time.Second, failed}, {240 * time.Second, failed}}, 300 * time.Second},
		{"long ago is no repeat", []event{{0, failed}, {time.Hour, failed}}, time.Hour + 5*time.Second},
		{"retry-after", []event{{0, retryAfter(throttled, 7*time.Second)}}, 7 * time.Second},
		{"a long retry-after", []event{{0, retryAfter(throttled, time.Hour)}}, 5 * time.Minute},
		{"a long retry-after of 529", []event{{0, retryAfter(failed, time.Hour)}}, time.Minute},
		{"retry-after: 0", []event{{0, with(throttled, now)}}, never},
		{"retry-after: 0 of 529", []event{{0, with(failed, now)}}, never},
		{"403", []event{{0, denied}}, 5 * time.Second},
		{"404", []event{{0, absent}}, 10 * time.Minute},
		{"no connection", []event{{0, unreachable}}, 5 * time.Second},
		{"another model", []event{{0, with(throttled, other)}}, never},
		{"another model, no connection", []event{{0, with(unreachable, other)}}, 5 * time.Second},
		{"another speed", []event{{0, with(throttled, fast)}}, never},
		{"another speed, 403", []event{{0, with(denied, fast)}}, 5 * time.Second},
		{"count_tokens", []event{{0, with(throttled, count)}}, never},
		{"count_tokens, 403", []event{{0, with(denied, count)}}, never},
		{"count_tokens, 404", []event{{0, with(absent, count)}}, never},
		{"a success clears it", []event{{0, throttled}, {time.Second, success}}, never},
		{"a success clears all of its own", []event{{0, throttled}, {0, denied}, {0, absent}, {0, unreachable}, {time.Second, success}}, never},
		{"but not one from before", []event{{0, throttled}, {time.Second, sentAt(success, early)}}, 5 * time.Second},
		{"nor of another model", []event{{0, throttled}, {time.Second, with(success, other)}}, 5 * time.Second},
		{"nor of another speed", []event{{0, throttled}, {time.Second, with(success, fast)}}, 5 * time.Second},
		{"nor of count_tokens", []event{{0, denied}, {time.Second, with(success, count)}}, 5 * time.Second},
		{"a header alone clears nothing", []event{{0, throttled}, {time.Second, scheduler.Outcome{Kind: scheduler.Answered, Status: 200, Model: opus}}}, 5 * time.Second},
		{"after a success it begins at 5 s", []event{{0, failed}, {10 * time.Second, failed}, {20 * time.Second, success}, {30 * time.Second, failed}}, 35 * time.Second},
		{"a rejected claim of another family", []event{{0, limited(scheduler.WindowReport{Name: "7d_sonnet", Family: "sonnet", Status: "rejected", Reset: noon.Add(time.Hour)})}}, 5 * time.Second},
		{"a rejected claim is no demotion", []event{{0, limited(window("5h", "rejected", time.Hour))}}, never},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			at := noon.Add(test.events[len(test.events)-1].after)
			got := accountStateAfter(test.events...).Judge(at, opus, false, scheduler.Messages).Last
			want := time.Time{}
			if test.last != never {
				want = noon.Add(test.last)
			}
			if !got.Equal(want) {
				t.Errorf("last until %v, want %v", got, want)
			}
		})
	}
}

func TestWindows(t *testing.T) {
	hour := noon.Truncate(time.Hour)
	known := func(name string, length, end time.Duration, status string) scheduler.Window {
		return scheduler.Window{Name: name, Start: noon.Add(end - length), End: noon.Add(end), Status: status, Utilization: 0.5}
	}
	const h5, d7 = 5 * time.Hour, 7 * 24 * time.Hour
	said := func(reports ...scheduler.WindowReport) scheduler.Outcome { return saying(success, reports...) }
	tests := []struct {
		name   string
		events []event
		want   []scheduler.Window
	}{
		{"nothing said", []event{{0, success}}, nil},
		{"end said", []event{{0, said(window("5h", "allowed", time.Hour))}}, []scheduler.Window{known("5h", h5, time.Hour, "allowed")}},
		{"all that is told of", []event{{0, said(window("7d_opus", "allowed", 40*time.Hour), window("7d", "allowed_warning", 30*time.Hour), window("5h", "allowed", time.Hour))}},
			[]scheduler.Window{known("5h", h5, time.Hour, "allowed"), known("7d", d7, 30*time.Hour, "allowed_warning"), known("7d_opus", d7, 40*time.Hour, "allowed")}},
		{"end not said", []event{{0, said(window("5h", "allowed", 0))}}, []scheduler.Window{{Name: "5h", Start: hour, End: hour.Add(h5), Status: "allowed", Utilization: 0.5}}},
		{"end not said, known", []event{{0, said(window("5h", "allowed", time.Hour))}, {time.Minute, said(window("5h", "allowed_warning", 0))}}, []scheduler.Window{known("5h", h5, time.Hour, "allowed_warning")}},
		{"end not said, expired", []event{{0, said(window("5h", "rejected", time.Hour))}, {time.Hour, said(window("5h", "allowed", 0))}}, []scheduler.Window{{Name: "5h", Start: hour.Add(time.Hour), End: hour.Add(6 * time.Hour), Status: "allowed", Utilization: 0.5}}},
		{"429 of the five-hour claim", []event{{0, limited(window("5h", "rejected", 2*time.Hour))}}, []scheduler.Window{known("5h", h5, 2*time.Hour, "rejected")}},
		{"other failures tell of windows too", []event{{0, saying(throttled, window("5h", "allowed", time.Hour))}}, []scheduler.Window{known("5h", h5, time.Hour, "allowed")}},
		{"what is no window", []event{{0, said(window("unified", "allowed", time.Hour), window("fast", "allowed", time.Hour), window("monthly", "allowed", time.Hour))}}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			st := accountStateAfter(test.events...)
			st.Reset()
			if diff := cmp.Diff(test.want, st.Windows); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestSmallStepsOfUtilizationAreNoChange(t *testing.T) {
	st := accountStateAfter(event{0, saying(success, window("5h", "allowed", time.Hour))})
	before := st.Clone()
	for utilization, same := range map[float64]bool{0.505: true, 0.495: true, 0.51: false} {
		after := before.Clone()
		w := window("5h", "allowed", time.Hour)
		w.Utilization = utilization
		after.Apply(saying(success, w), noon, cooldowns)
		if after.Equal(&before) != same {
			t.Errorf("utilization 0.5 to %v: equal = %v", utilization, !same)
		}
	}
}

func TestAnAccountInError(t *testing.T) {
	st := accountStateAfter(event{0, denied})
	if !st.MayAsk(noon) || st.MayAsk(noon.Add(29*time.Second)) || !st.MayAsk(noon.Add(30*time.Second)) {
		t.Error("the account is not asked every 30 s at most")
	}
	next := 10 * time.Minute
	at := noon
	for range 8 {
		st.Fail("401 again", false, at, cooldowns)
		v := st.Judge(at, "any", false, scheduler.CountTokens)
		if v.Use != scheduler.Blocked || !v.Until.Equal(at.Add(next)) {
			t.Fatalf("%+v, want it barred for %v", v, next)
		}
		at = at.Add(next)
		next = min(2*next, 6*time.Hour)
	}
	if word, _, why := st.Summary(at); word != scheduler.StateError || why != "401 again" || !st.ErrorSince.Equal(noon) {
		t.Errorf("%s because %s since %v", word, why, st.ErrorSince)
	}
	st.Apply(sentAt(success, -time.Hour), at, cooldowns)
	if st.Error == "" {
		t.Error("the answer to a request from before the error ended it")
	}
	st.Apply(sentAt(limited(window("5h", "rejected", 10000*time.Hour)), time.Hour), at, cooldowns)
	if st.Error == "" {
		t.Error("a limit ended the error")
	}
	st.Apply(sentAt(success, time.Hour), at, cooldowns)
	if word, _, _ := st.Summary(at); st.Error != "" || word == scheduler.StateError {
		t.Error("a success did not end the error")
	}
	st.Fail("for good", false, at, scheduler.Cooldowns{})
	if v := st.Judge(at, "m", false, scheduler.Messages); v.Use != scheduler.Blocked || !v.Until.IsZero() {
		t.Errorf("without error_retry: %+v", v)
	}
}

func TestAnotherCredentialBeginsWellOff(t *testing.T) {
	st := accountStateAfter(event{0, limited(window("7d", "rejected", 100*time.Hour))}, event{0, unreachable}, event{0, spent})
	st.Adopt("first")
	if len(st.Limits) != 2 || len(st.Demotions) != 1 {
		t.Fatalf("the first credential that is told of ends things: %+v", st)
	}
	st.Pause = &scheduler.Pause{By: "me", At: noon}
	st.Fail("401", false, noon, cooldowns)
	st.Adopt("second")
	want := scheduler.AccountState{Credential: "second", Pause: st.Pause}
	if diff := cmp.Diff(want, *st); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestReasonsAreForTheOperator(t *testing.T) {
	st := accountStateAfter(event{0, with(limited(window("7d_opus", "rejected", time.Hour)), func(o *scheduler.Outcome) { o.Reason = "weekly" })},
		event{0, with(denied, func(o *scheduler.Outcome) { o.Reason = strings.Repeat("ü", 1000) })},
		event{0, with(throttled, func(o *scheduler.Outcome) { o.Endpoint, o.Fast = scheduler.CountTokens, true })})
	marks := st.Marks(noon)
	scopes := make([]string, len(marks))
	for i, m := range marks {
		scopes[i] = m.Scope
		if len(m.Reason) > 410 || strings.ContainsRune(m.Reason, '\uFFFD') {
			t.Errorf("a long reason became %d bytes: %q", len(m.Reason), m.Reason)
		}
	}
	want := []string{"opus out (7d_opus)", "claude-opus-4 last", "claude-opus-4 count_tokens fast mode last"}
	if diff := cmp.Diff(want, scopes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPaused(t *testing.T) {
	st := scheduler.AccountState{Pause: &scheduler.Pause{By: "ann", At: noon}}
	st.Reset()
	if v := st.Judge(noon, "m", false, scheduler.Messages); v.Use != scheduler.Blocked || st.Clear(noon) || st.MayAsk(noon) {
		t.Error("a paused account is used")
	}
	if word, _, why := st.Summary(noon); word != scheduler.StateDisabled || why != "paused by ann at 2026-12-10T12:34:56Z" {
		t.Errorf("state %s: %s", word, why)
	}
}

func TestClientsCannotFillTheDocument(t *testing.T) {
	var st scheduler.AccountState
	st.Apply(limited(window("5h", "rejected", time.Hour), window("7d_opus", "rejected", time.Hour)), noon, cooldowns)
	st.Apply(unreachable, noon, cooldowns)
	for i := range 1000 {
		st.Apply(with(absent, func(o *scheduler.Outcome) {
			o.Model, o.Reason = fmt.Sprint("model-", i), strings.Repeat("why", 100)
		}), noon, cooldowns)
	}
	st.Apply(with(denied, func(o *scheduler.Outcome) { o.Model = strings.Repeat("m", 1<<20) }), noon, cooldowns)
	if data, err := json.Marshal(&st); err != nil || len(data) > 24<<10 {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if len(st.Limits) != 2 || !st.Judge(noon, "m", false, scheduler.Messages).Everyone {
		t.Error("what upstream said of the account was dropped for what clients chose")
	}
	st.Apply(sentAt(success, time.Hour), noon.Add(2*time.Hour), cooldowns)
	if len(st.Demotions) > 0 {
		t.Errorf("%d demotions that ended long ago", len(st.Demotions))
	}
}

func TestAccountStatesOfAnEarlierVersion(t *testing.T) {
	const text = `{"error":"credential refused","credential":"f","forbidden":2,"faults":["2026-01-01T00:00:00Z"],"overloads":1,"limits":[
		{"kind":"rate_limited","until":"2026-12-11T00:00:00Z","reason":"spent"},
		{"kind":"rate_limited","family":"opus","until":"2026-12-12T00:00:00Z"},
		{"kind":"rate_limited","fast":true,"until":"2026-12-12T00:00:00Z"},
		{"kind":"burst","until":"2026-12-12T00:00:00Z"},{"kind":"overloaded","until":"2026-12-12T00:00:00Z"},
		{"kind":"faults","until":"2026-12-12T00:00:00Z"},{"kind":"forbidden","model":"m","until":"2026-12-12T00:00:00Z"},
		{"kind":"spend_limit","until":"2027-01-01T00:00:00Z"}],
		"window":{"start":"2026-12-10T10:00:00Z","end":"2026-12-10T15:00:00Z","status":"allowed","utilization":0.5}}`
	var got scheduler.AccountState
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	day := func(month time.Month, day, hour int) time.Time {
		return time.Date(2026, month, day, hour, 0, 0, 0, time.UTC)
	}
	want := scheduler.AccountState{
		Error: "credential refused", Credential: "f",
		Limits: []scheduler.Limit{
			{Claim: "unified", Until: day(12, 11, 0), Reason: "spent"},
			{Claim: "unified", Family: "opus", Until: day(12, 12, 0)},
			{Claim: "fast", Fast: true, Until: day(12, 12, 0)},
			{Claim: "spend", Until: day(13, 1, 0)},
		},
		Windows: []scheduler.Window{{Name: "5h", Start: day(12, 10, 10), End: day(12, 10, 15), Status: "allowed", Utilization: 0.5}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func drawOutcome(t *rapid.T, now time.Time) scheduler.Outcome {
	o := scheduler.Outcome{
		Kind:       scheduler.OutcomeKind(rapid.IntRange(int(scheduler.Success), int(scheduler.Unreachable)).Draw(t, "kind")),
		Status:     rapid.SampledFrom([]int{0, 200, 429, 529}).Draw(t, "status"),
		Model:      rapid.SampledFrom([]string{opus, "claude-sonnet-4"}).Draw(t, "model"),
		Endpoint:   rapid.SampledFrom([]scheduler.Endpoint{scheduler.Messages, scheduler.CountTokens}).Draw(t, "endpoint"),
		Fast:       rapid.Bool().Draw(t, "fast"),
		RetryAfter: time.Duration(rapid.IntRange(0, 100).Draw(t, "retry-after")) * time.Second,
		Sent:       now.Add(-time.Duration(rapid.IntRange(1, 100).Draw(t, "sent")) * time.Second),
	}
	for _, name := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"5h", "7d", "7d_opus", "fast", "unified"}), rapid.ID).Draw(t, "windows") {
		status := rapid.SampledFrom([]string{"allowed", "allowed_warning", "rejected"}).Draw(t, "status")
		o.Windows = append(o.Windows, window(name, status, 0))
	}
	return o
}

// TestAccountStateProperties: whatever happens, an account state survives JSON, Apply
// leaves copies alone, nothing but a rejected claim or a spend limit takes the
// account out, it comes back by itself within a month, and successes clear it
// then.
func TestAccountStateProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var st scheduler.AccountState
		now, rejected := noon, false
		for range rapid.IntRange(1, 30).Draw(t, "outcomes") {
			now = now.Add(time.Duration(rapid.IntRange(0, 200).Draw(t, "pause")) * time.Second)
			copied := st // shares memory, as what a State returns does
			before := st.Clone()
			o := drawOutcome(t, now)
			for _, w := range o.Windows {
				rejected = rejected || w.Status == "rejected" && (o.Kind == scheduler.Limited || o.Kind == scheduler.Success)
			}
			rejected = rejected || o.Kind == scheduler.SpendLimit
			st.Apply(o, now, cooldowns)
			if !copied.Equal(&before) {
				t.Fatalf("Apply changed a copy: %+v, was %+v", copied, before)
			}
			if v := st.Judge(now, opus, true, scheduler.Messages); v.Use != scheduler.Available && !rejected {
				t.Fatalf("out without a word of upstream's: %+v", st)
			}
		}
		data, err := json.Marshal(&st)
		var back scheduler.AccountState
		if err == nil {
			err = json.Unmarshal(data, &back)
		}
		if err != nil || !back.Equal(&st) {
			t.Fatalf("%s: %v", data, err)
		}
		now = now.Add(32 * 24 * time.Hour)
		for _, model := range []string{opus, "claude-sonnet-4"} {
			if v := st.Judge(now, model, true, scheduler.Messages); v.Use == scheduler.Blocked || !v.Last.IsZero() || !st.NextChange(now).IsZero() {
				t.Fatalf("not back after a month: %+v", st)
			}
			st.Apply(scheduler.Outcome{Kind: scheduler.Success, Status: 200, Model: model, Fast: true, Sent: now}, now, cooldowns)
		}
		if !st.Clear(now) {
			t.Fatalf("not clear after successes: %+v", st)
		}
	})
}
