package anthropic

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/google/uuid"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
)

// Identity is what an account shows of the clients behind it: one device, one
// version of one client. Its JSON is what the store keeps.
type Identity struct {
	// Account names the account; AccountUUID is the provider's id of it, "" if
	// unknown. Neither is kept.
	Account     string `json:"-"`
	AccountUUID string `json:"-"`
	// ClientID is random, 64 hexadecimal digits, as Claude Code's device_id.
	ClientID string `json:"client_id"`
	// UserAgent and Stainless (x-stainless-*) are those of the first client seen,
	// in its newest version.
	UserAgent string            `json:"user_agent"`
	Stainless map[string]string `json:"stainless"`
}

// Identities keeps the accounts' identities. The zero value is ready to use.
type Identities struct {
	mu        sync.Mutex
	byAccount map[string]*Identity
	save      func(account string, identity []byte)
}

// Keep has save called with every identity that changes from here on, under a
// lock.
func (i *Identities) Keep(save func(account string, identity []byte)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.save = save
}

// Restore takes in an identity that was kept.
func (i *Identities) Restore(account string, identity []byte) error {
	var kept Identity
	if err := json.Unmarshal(identity, &kept); err != nil {
		return fmt.Errorf("reading the identity of account %s: %w", account, err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.byAccount == nil {
		i.byAccount = make(map[string]*Identity)
	}
	if i.byAccount[account] == nil {
		i.byAccount[account] = &kept
	}
	return nil
}

// See returns the account's identity, made or raised by the client's headers.
func (i *Identities) See(account, accountUUID string, header http.Header) *Identity {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.byAccount == nil {
		i.byAccount = make(map[string]*Identity)
	}
	kept := i.byAccount[account]
	if agent := header.Get("User-Agent"); kept == nil || agent != "" && newer(agent, kept.UserAgent) {
		next := &Identity{UserAgent: agent, Stainless: stainless(header)}
		if kept != nil {
			next.ClientID = kept.ClientID
		} else {
			next.ClientID = randomHex()
		}
		i.byAccount[account], kept = next, next
		if i.save != nil {
			if text, err := json.Marshal(next); err == nil { // strings alone: it can't fail
				i.save(account, text)
			}
		}
	}
	shown := *kept
	shown.Account, shown.AccountUUID = account, accountUUID
	return &shown
}

func stainless(header http.Header) map[string]string {
	out := map[string]string{}
	for name, values := range header {
		if strings.HasPrefix(name, "X-Stainless-") && len(values) > 0 {
			out[name] = values[0]
		}
	}
	return out
}

func randomHex() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails; see crypto/rand
	return hex.EncodeToString(b[:])
}

// newer tells whether a user-agent is a later version of the same client, or
// the first of all.
func newer(agent, than string) bool {
	if than == "" {
		return true
	}
	name, version := product(agent)
	oldName, oldVersion := product(than)
	if name != oldName {
		return false
	}
	for i := 0; i < len(version) || i < len(oldVersion); i++ {
		if a, b := part(version, i), part(oldVersion, i); a != b {
			return a > b
		}
	}
	return false
}

// product splits "claude-cli/2.1.330 (external)" into its name and version.
func product(agent string) (string, []string) {
	name, rest, _ := strings.Cut(agent, "/")
	version, _, _ := strings.Cut(rest, " ")
	return name, strings.Split(version, ".")
}

func part(version []string, i int) int {
	if i >= len(version) {
		return 0
	}
	n, _ := strconv.Atoi(version[i])
	return n
}

// apply puts the identity's headers in place of the client's.
func (d *Identity) apply(header http.Header) {
	maps.DeleteFunc(header, func(name string, _ []string) bool { return strings.HasPrefix(name, "X-Stainless-") })
	for name, value := range d.Stainless {
		header[name] = []string{value}
	}
	if d.UserAgent != "" {
		header["User-Agent"] = []string{d.UserAgent}
	}
	if session := header.Get(sessionHeader); session != "" {
		header.Set(sessionHeader, d.session(session))
	}
}

// userID rewrites a metadata.user_id in the form that it came in: a JSON text,
// user_…_account_…_session_…, or a word of the client's own.
func (d *Identity) userID(sent string) string {
	if strings.HasPrefix(strings.TrimLeft(sent, " \t\r\n"), "{") && len(sent) <= maxUserID && gjson.Valid(sent) {
		for name, value := range map[string]func(string) string{
			"device_id":         func(string) string { return d.ClientID },
			"account_uuid":      func(string) string { return d.AccountUUID },
			"session_id":        d.session,
			"parent_session_id": d.session,
		} {
			if old := gjson.Get(sent, name); old.Exists() {
				sent, _ = sjson.Set(sent, name, value(old.String())) // the path exists
			}
		}
		return sent
	}
	if session := sessionOfUser(sent); session != "" && strings.HasPrefix(sent, "user_") {
		return "user_" + d.ClientID + "_account_" + d.AccountUUID + "_session_" + d.session(session)
	}
	sum := sha256.Sum256([]byte(d.Account + "\x00" + sent))
	return hex.EncodeToString(sum[:])
}

// session is the UUID that stands for a client's session at this account.
func (d *Identity) session(sent string) string {
	sum := sha256.Sum256([]byte(d.Account + "\x00" + sent))
	id := uuid.UUID(sum[:16])
	id[6] = id[6]&0x0f | 0x40 // the form of a random UUID
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}
