package nodes_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/internal/gatewaytest"
	"github.com/sub2api/caddy-sub2api/upstream"
	"github.com/sub2api/caddy-sub2api/upstream/simulator"
)

// openingBalance is what each user of a fleet begins with.
const openingBalance = 1000 * billing.USD(1_000_000_000)

// entry is a record as the admin API shows it.
type entry struct {
	ID      string      `json:"id"`
	User    string      `json:"user"`
	Status  int         `json:"status"`
	Billing string      `json:"billing"`
	Cost    billing.USD `json:"cost_usd"`
	Charged billing.USD `json:"charged_usd"`
	tokenSums
}

// tokenSums are what answers used, or a sum of that.
type tokenSums struct {
	Input  int64 `json:"input_tokens"`
	Output int64 `json:"output_tokens"`
	Cached int64 `json:"cache_read_tokens"`
}

func (s *tokenSums) add(more tokenSums) {
	s.Input += more.Input
	s.Output += more.Output
	s.Cached += more.Cached
}

// totals are what the ledger, or the upstream, counts in all.
type totals struct {
	Requests int64       `json:"requests"`
	Cost     billing.USD `json:"cost_usd"`
	Charged  billing.USD `json:"charged_usd"`
	tokenSums
}

// meter is an upstream that counts what it hands out.
type meter struct {
	mu    sync.Mutex
	given totals // no money
}

// script answers within a time, each answer with a usage of its own.
func (m *meter) script(least, most time.Duration) func(*simulator.Request) simulator.Reply {
	delays := lasting(least, most)
	return func(r *simulator.Request) simulator.Reply {
		used := tokenSums{Input: rand.Int64N(10_000), Output: 1 + rand.Int64N(500), Cached: rand.Int64N(10_000)}
		m.mu.Lock()
		m.given.Requests++
		m.given.add(used)
		m.mu.Unlock()
		reply := delays(r)
		reply.Usage = &upstream.Usage{Input: used.Input, Output: used.Output, CacheRead: used.Cached}
		return reply
	}
}

func (m *meter) totals() totals {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.given
}

// adminTimeout is how long a call of the admin API may take.
const adminTimeout = 5 * time.Second

// admin makes a call of a gateway's admin API, and reads the answer into out where
// it is no error.
func (f *fleet) admin(at *gatewaytest.Gateway, method, path string, in, out any) (status int, err error) {
	body, err := json.Marshal(in)
	if err != nil || in == nil {
		body = nil
	}
	request, err := http.NewRequest(method, at.Admin+"/sub2api/"+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	client := &http.Client{Transport: f.http.Transport, Timeout: adminTimeout}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return response.StatusCode, err
	}
	if response.StatusCode != http.StatusOK {
		return response.StatusCode, fmt.Errorf("%s %s at gateway %s: status %d: %.300s", method, path, at.Name, response.StatusCode, answer)
	}
	return response.StatusCode, json.Unmarshal(answer, out)
}

// entries are the records by their ids. Two of one id are an error.
func (f *fleet) entries(at *gatewaytest.Gateway) (map[string]entry, error) {
	var list []entry
	if _, err := f.admin(at, "GET", "records?limit=0", nil, &list); err != nil {
		return nil, err
	}
	out := map[string]entry{}
	for _, e := range list {
		if _, twice := out[e.ID]; twice {
			return nil, fmt.Errorf("there are two records of %s", e.ID)
		}
		out[e.ID] = e
	}
	return out, nil
}

// missingFrom are the whole answers that have no record.
func (f *fleet) missingFrom(records map[string]entry) (ids []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, at := range f.answered {
		if _, ok := records[id]; !ok {
			ids = append(ids, fmt.Sprintf("%s, whole at %s", id, at.Format("15:04:05.000")))
		}
	}
	return ids
}

// wantBooks fails the test unless within a time every whole answer is on record,
// once, and nothing else is, and, by what the admin API of a gateway says, the sums
// are those of the records and of what the upstream counted, and everybody has what
// he began with and was credited, less what he was charged.
func (f *fleet) wantBooks(at *gatewaytest.Gateway, limit time.Duration, upstreams totals, credited map[string]billing.USD) {
	f.t.Helper()
	var wrong []string
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		if wrong = f.audit(at, upstreams, credited); len(wrong) == 0 {
			return
		}
		if time.Now().After(end) {
			break
		}
	}
	for _, what := range wrong {
		f.t.Errorf("%v after all answers: %s", limit, what)
	}
}

// audit says what is wrong with the books.
func (f *fleet) audit(at *gatewaytest.Gateway, upstreams totals, credited map[string]billing.USD) (wrong []string) {
	records, err := f.entries(at)
	if err != nil {
		return []string{err.Error()}
	}
	if missing := f.missingFrom(records); len(missing) > 0 {
		wrong = append(wrong, fmt.Sprintf("%d of %d whole answers have no record:%s", len(missing), len(f.answered), gatewaytest.List(missing)))
	}
	var sum totals
	var strange []string
	charged := map[string]billing.USD{}
	for id, e := range records {
		if _, answered := f.answered[id]; !answered {
			strange = append(strange, fmt.Sprintf("%s of %s, status %d", id, e.User, e.Status))
		}
		sum.Requests++
		sum.Cost += e.Cost
		sum.Charged += e.Charged
		sum.add(e.tokenSums)
		charged[e.User] += e.Charged
	}
	if len(strange) > 0 {
		wrong = append(wrong, fmt.Sprintf("%d records are of no whole answer:%s", len(strange), gatewaytest.List(strange)))
	}
	wrong = append(wrong, f.auditSums(at, sum, upstreams)...)
	return append(wrong, f.auditBalances(at, charged, credited)...)
}

// auditSums compares the sum of the records with what the ledger sums up, and with
// what the upstream counted.
func (f *fleet) auditSums(at *gatewaytest.Gateway, records, upstreams totals) (wrong []string) {
	var rows []totals
	if _, err := f.admin(at, "GET", "usage", nil, &rows); err != nil || len(rows) != 1 {
		return []string{fmt.Sprintf("the usage has %d rows, %v", len(rows), err)}
	}
	if rows[0] != records {
		wrong = append(wrong, fmt.Sprintf("the usage is %+v, the sum of the records %+v", rows[0], records))
	}
	records.Cost, records.Charged = 0, 0
	if records != upstreams {
		wrong = append(wrong, fmt.Sprintf("the records sum up to %+v, the upstream counted %+v", records, upstreams))
	}
	return wrong
}

// auditBalances compares balances, as the admin API and GET /v1/usage show them.
func (f *fleet) auditBalances(at *gatewaytest.Gateway, charged, credited map[string]billing.USD) (wrong []string) {
	for i := range users {
		name := fmt.Sprintf("u%d", i)
		var user struct {
			Balance billing.USD `json:"balance_usd"`
		}
		if _, err := f.admin(at, "GET", "users/"+name, nil, &user); err != nil {
			wrong = append(wrong, err.Error())
			continue
		}
		if want := openingBalance + credited[name] - charged[name]; user.Balance != want {
			wrong = append(wrong, fmt.Sprintf("%s has %s, which is %s too much: credited %s, charged %s",
				name, user.Balance, user.Balance-want, credited[name], charged[name]))
		}
		if status, left, err := f.remaining(at, i); err != nil || status != http.StatusOK || left != user.Balance {
			wrong = append(wrong, fmt.Sprintf("%s has %s by the admin API, %s by /v1/usage (status %d, %v)", name, user.Balance, left, status, err))
		}
	}
	return wrong
}

// remaining asks GET /v1/usage what a user has left.
func (f *fleet) remaining(at *gatewaytest.Gateway, user int) (status int, left billing.USD, err error) {
	request, err := http.NewRequest(http.MethodGet, at.URL+"/v1/usage", nil)
	if err != nil {
		return 0, 0, err
	}
	request.Header.Set("X-Api-Key", fmt.Sprintf("sk-gateway-u%d", user))
	client := &http.Client{Transport: f.http.Transport, Timeout: adminTimeout}
	response, err := client.Do(request)
	if err != nil {
		return 0, 0, err
	}
	defer response.Body.Close()
	var answer struct {
		Remaining billing.USD `json:"remaining"`
	}
	if response.StatusCode == http.StatusOK {
		err = json.NewDecoder(response.Body).Decode(&answer)
	}
	return response.StatusCode, answer.Remaining, err
}
