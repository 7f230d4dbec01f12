package config

import (
	"cmp"
	"os"
	"strings"
	"testing"
)

// tables are the README's rows of options, by the bold word or heading above them; each
// word with its default and what is said of it.
func tables(t *testing.T) map[string]map[string][2]string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]map[string][2]string{}
	above := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "**"); ok {
			above, _, _ = strings.Cut(rest, "**")
		} else if strings.HasPrefix(line, "#") {
			above = strings.TrimLeft(line, "# ")
		}
		cells := strings.Split(strings.ReplaceAll(line, `\|`, "\x00"), "|")
		if len(cells) != 5 {
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(strings.ReplaceAll(cells[i], "\x00", "|"))
		}
		if found[above] == nil {
			found[above] = map[string][2]string{}
		}
		found[above][strings.Trim(cells[1], "`")] = [2]string{cells[2], cells[3]}
	}
	return found
}

// TestTheREADMEsOptions: the README has a row for every option, which says what the code
// does.
func TestTheREADMEsOptions(t *testing.T) {
	rows := tables(t)
	for _, block := range []struct {
		above, name string
		options     []option
	}{
		{"The directive", "", new(Config).options()},
		{"Redis", "", new(RedisStore).options()},
		{"account", "", new(Account).options()},
		{"account", "oauth", new(OAuth).options()},
		{"group", "", new(Group).options()},
		{"user", "", new(User).options()},
		{"scheduling", "", new(Scheduling).options()},
		{"retry", "retry", new(Retry).options()},
		{"retry", "request", new(Request).options()},
		{"retry", "relay", new(Relay).options()},
		{"retry", "billing", new(Billing).options()},
	} {
		for _, o := range block.options {
			written := o.name + " " + o.kind.usage
			if block.name != "" {
				written = block.name + " { " + written + " }"
			}
			row, ok := rows[block.above][written]
			want := "`" + o.standard + "`"
			switch {
			case !ok:
				t.Errorf("below %q there is no row `%s`", block.above, written)
			case o.standard != "" && row[0] != want, o.standard == "" && strings.HasPrefix(cmp.Or(row[0], "-"), "`") && strings.HasSuffix(row[0], "`"):
				t.Errorf("%s: the README says that the default is %s, the code %s", written, row[0], want)
			case row[1] != o.about:
				t.Errorf("%s: the README says %q, the code %q", written, row[1], o.about)
			}
		}
	}
}

// TestDefaultsAreRight: each can be written, and is within its bounds.
func TestDefaultsAreRight(t *testing.T) {
	var h Config
	h.setDefaults()
	h.Store = &Store{Redis: &RedisStore{URL: []string{"redis://localhost"}}}
	h.Accounts = []Account{{Name: "a", APIKey: "k"}}
	h.Groups, h.Users = []Group{{Name: "g"}}, []User{{Name: "u"}}
	h.setDefaults()
	if err := h.Validate(); err != nil {
		t.Error(err)
	}
	for _, options := range [][]option{
		h.options(), h.Store.Redis.options(), h.Accounts[0].options(), h.Groups[0].options(), h.Users[0].options(),
		h.Scheduling.options(), h.Retry.options(), h.Request.options(), h.Relay.options(), h.Billing.options(),
	} {
		for _, o := range options {
			if o.standard == "" || o.kind.fill == nil {
				continue
			}
			if err := o.kind.read(strings.Fields(o.standard)); err != nil {
				t.Errorf("%s: its default %q: %v", o.name, o.standard, err)
			}
		}
	}
}
