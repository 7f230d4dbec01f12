package cli

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sub2api/caddy-sub2api/billing"
	"github.com/sub2api/caddy-sub2api/caddymodule/admin"
)

// tableRows is how many rows of a long table are aligned with each other: what is
// not printed yet is held.
const tableRows = 500

// exportFlags are the filters of usage and records, and their formats.
type exportFlags struct {
	filters map[string]*string
	csv     bool
}

// addExportFlags adds a flag for each of these parameters of the admin API.
func addExportFlags(cmd *cobra.Command, parameters ...string) *exportFlags {
	e := &exportFlags{filters: map[string]*string{}}
	flags := cmd.Flags()
	for _, name := range parameters {
		what := "Only what has this " + name
		switch name {
		case "from":
			what = "Only from this time on: RFC 3339, or a date for " + dateMeans
		case "to":
			what = "Only before this time"
		case "settled_from":
			what = "Only what entered the store from this time on"
		case "settled_to":
			what = "Only what entered the store before this time"
		case "key":
			what += ", by its id"
		}
		e.filters[name] = flags.String(strings.ReplaceAll(name, "_", "-"), "", what)
	}
	flags.BoolVar(&e.csv, "csv", false, "Print CSV, with a header")
	cmd.MarkFlagsMutuallyExclusive("csv", "json")
	return e
}

// run asks for rows and prints them as they come.
func (e *exportFlags) run(cmd *cobra.Command, c *adminClient, path string, query url.Values, printRows func(out io.Writer, rows *json.Decoder) error) error {
	for name, value := range e.filters {
		if *value != "" {
			query.Set(name, *value)
		}
	}
	if e.csv {
		query.Set("format", "csv")
	}
	answer, err := c.call(http.MethodGet, path, query, nil)
	if err != nil {
		return err
	}
	defer answer.Close()
	if e.csv || c.asJSON {
		return copyAnswer(cmd.OutOrStdout(), answer)
	}
	rows := json.NewDecoder(answer)
	if _, err = rows.Token(); err == nil {
		if err = printRows(cmd.OutOrStdout(), rows); err == nil {
			_, err = rows.Token() // the end, or what came instead
		}
	}
	if err != nil {
		return answerCut(err)
	}
	return nil
}

// printTable prints the rows of an array that was begun.
func printTable[T any](out io.Writer, rows *json.Decoder, cells func(*T) []string, head ...string) error {
	t := table(out, head...)
	defer t.Flush()
	for n := 1; rows.More(); n++ {
		var row T
		if err := rows.Decode(&row); err != nil {
			return err
		}
		tableRow(t, cells(&row)...)
		if n%tableRows == 0 {
			t.Flush()
		}
	}
	return nil
}

func usageCommand(endpoint Endpoint) *cobra.Command {
	cmd, c := adminCommand(endpoint, "usage [--by user,model] [--from …] [--to …] [--user …] [--csv]", "Sums up what was used")
	cmd.Args = cobra.NoArgs
	e := addExportFlags(cmd, admin.FilterParameters...)
	by := cmd.Flags().StringSlice("by", nil, "A row for each user, key, account, group, model, day, or combination of these")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		query := url.Values{}
		if len(*by) > 0 {
			query.Set("by", strings.Join(*by, ","))
		}
		return e.run(cmd, c, "usage", query, func(out io.Writer, rows *json.Decoder) error { return printUsage(out, rows, *by) })
	}
	return cmd
}

// usageView is a row of GET usage.
type usageView struct {
	User         string      `json:"user"`
	Key          string      `json:"key"`
	Account      string      `json:"account"`
	Group        string      `json:"group"`
	Model        string      `json:"model"`
	Day          string      `json:"day"`
	Requests     int64       `json:"requests"`
	Input        int64       `json:"input_tokens"`
	Output       int64       `json:"output_tokens"`
	CacheWrite5m int64       `json:"cache_write_5m_tokens"`
	CacheWrite1h int64       `json:"cache_write_1h_tokens"`
	CacheRead    int64       `json:"cache_read_tokens"`
	Cost         billing.USD `json:"cost_usd"`
	Charged      billing.USD `json:"charged_usd"`
}

func printUsage(out io.Writer, rows *json.Decoder, by []string) error {
	var head []string
	for _, dimension := range by {
		head = append(head, strings.ToUpper(dimension))
	}
	head = append(head, "REQUESTS", "INPUT", "OUTPUT", "CACHE WRITE 5M", "CACHE WRITE 1H", "CACHE READ", "COST", "CHARGED")
	return printTable(out, rows, func(u *usageView) []string {
		var cells []string
		for _, dimension := range by {
			cells = append(cells, map[string]string{
				"user": u.User, "key": u.Key, "account": u.Account, "group": u.Group, "model": u.Model, "day": u.Day,
			}[dimension])
		}
		for _, n := range []int64{u.Requests, u.Input, u.Output, u.CacheWrite5m, u.CacheWrite1h, u.CacheRead} {
			cells = append(cells, strconv.FormatInt(n, 10))
		}
		return append(cells, u.Cost.Short(), u.Charged.Short())
	}, head...)
}

func recordsCommand(endpoint Endpoint) *cobra.Command {
	cmd, c := adminCommand(endpoint, "records [--from …] [--to …] [--settled-from …] [--settled-to …] [--user …] [--limit n] [--csv]", "Lists the records of requests, newest first")
	cmd.Args = cobra.NoArgs
	e := addExportFlags(cmd, slices.Concat(admin.FilterParameters, admin.RecordParameters)...)
	limit := cmd.Flags().Int("limit", admin.DefaultRecordLimit, "The largest number of records; 0 = all")
	after := cmd.Flags().String("after", "", "Go on after the record of this id, in the same order")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		query := url.Values{"limit": {strconv.Itoa(*limit)}}
		if *after != "" {
			query.Set("after", *after)
		}
		return e.run(cmd, c, "records", query, printRecords)
	}
	return cmd
}

func printRecords(out io.Writer, rows *json.Decoder) error {
	return printTable(out, rows, func(r *billing.Record) []string {
		status := strconv.Itoa(r.Status)
		if r.Estimated {
			status += " estimated"
		}
		if r.Unpriced {
			status += " unpriced"
		}
		return []string{
			r.Time.Format(time.RFC3339), r.User, r.KeyID, r.Group, r.Account, r.Model, status,
			strconv.FormatInt(r.Input, 10), strconv.FormatInt(r.Output, 10),
			strconv.FormatInt(r.CacheWrite5m+r.CacheWrite1h, 10), strconv.FormatInt(r.CacheRead, 10),
			r.Cost.Short(), r.Charged.Short(), r.Billing, r.ID,
		}
	}, "TIME", "USER", "KEY", "GROUP", "ACCOUNT", "MODEL", "STATUS", "INPUT", "OUTPUT", "CACHE WRITE", "CACHE READ", "COST", "CHARGED", "PAID BY", "ID")
}
