# 050_metrics.pl - retention.metrics through real exporters: postgres_exporter with
# monitoring/queries.yaml, sql_exporter with monitoring/sql_exporter.yml, and a Prometheus
# with monitoring/prometheus.yml and monitoring/alerts.yml that scrapes both.  Whatever the
# view says has to arrive, under the same name, with the same labels and value; and what
# docs/metrics.md shows as the scrape of an exporter has to have the shape of a real one,
# which is left as scrape.txt beside the logs
# (KEEP=DIR scripts/test test/t/050_metrics.pl).

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";
use HTTP::Tiny;
use IPC::Run ();
use JSON::PP ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RetentionTest;
use RunTest;
use Test::More;
use Time::HiRes qw(usleep);

my $root = "$FindBin::RealBin/../..";
my %program = map { $_ => find_program($_) }
  qw(prometheus-postgres-exporter prometheus-sql-exporter prometheus promtool);
my @missing = grep { !$program{$_} } sort keys %program;

plan skip_all => "not installed: @missing (scripts/deps monitoring)" if @missing;

my ($t1, $t2) = (tenant(1), tenant(2));
my $http = HTTP::Tiny->new(timeout => $PostgreSQL::Test::Utils::timeout_default, proxy => undef, http_proxy => undef);
my $dir = PostgreSQL::Test::Utils::tempdir;
my @running;    # [name, handle, log]

sub find_program
{
	my ($name) = @_;

	foreach my $path (split /:/, $ENV{PATH})
	{
		return "$path/$name" if -x "$path/$name";
	}
	return undef;	# in a list, too
}

# A configuration of ours, with what the test has to put in its place.  Whatever it is
# to replace has to be there.
sub configure
{
	my ($file, %replace) = @_;
	my $text = slurp_file("$root/monitoring/$file");

	foreach my $old (sort keys %replace)
	{
		$text =~ s/\Q$old\E/$replace{$old}/ or die "$file has no \"$old\"";
	}
	append_to_file("$dir/$file", $text);
	return "$dir/$file";
}

# Starts a program that serves HTTP, and waits until it does.  Returns its address.
sub serve
{
	my ($name, $path, %opt) = @_;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $log = "$PostgreSQL::Test::Utils::log_path/$name.log";
	my @command = map { s/ADDRESS/127.0.0.1:$port/r } @{ $opt{command} };
	local %ENV = (%ENV, %{ $opt{env} // {} });
	my $handle = IPC::Run::start([ $program{$name}, @command ], '<', '/dev/null', '>', $log, '2>&1');

	push @running, [ $name, $handle, $log ];
	wait_until(sub {
			$handle->pumpable or die "$name has ended: " . slurp_file($log);
			return $http->get("http://127.0.0.1:$port$path")->{success};
		}, "$name answers");
	return "http://127.0.0.1:$port";
}

# Asks until the answer is true.
sub wait_until
{
	my ($condition, $what) = @_;
	my $attempts = 10 * $PostgreSQL::Test::Utils::timeout_default;

	while ($attempts-- > 0)
	{
		return pass($what) if $condition->();
		usleep(100_000);
	}
	foreach my $program (@running)
	{
		diag "$program->[0]: " . slurp_file($program->[2]);
	}
	fail($what);
	die "gave up waiting: $what";
}

# The key of a series: its name and the labels that are not empty, in order.
sub series
{
	my ($name, %label) = @_;
	my $labels = join ',', map { qq($_="$label{$_}") } grep { $label{$_} ne '' } sort keys %label;

	return "$name\{$labels}";
}

# The series of ours in a scrape, as a hash from series to value, and the types and helps
# of their metrics.
sub scrape
{
	my ($address, $keep) = @_;
	my $answer = $http->get("$address/metrics");
	my (%value, %about);

	is($answer->{status}, 200, 'a scrape') or diag $answer->{content};
	foreach my $line (split /\n/, $answer->{content})
	{
		if ($line =~ /^# (HELP|TYPE) (\w*retention\w*) (.*)$/) { $about{$2}{$1} = $3; }
		elsif ($line =~ /^(\w*retention\w*)\{(.*)\} (\S+)$/)
		{
			my ($name, $labels, $value) = ($1, $2, $3);
			my %label = $labels =~ /(\w+)="([^"]*)"/g;

			$value{ series($name, %label) } = $value;
		}
	}
	append_to_file($keep, join "\n",
		map({ s/server="[^"]*"/server="localhost:5432"/r } grep { /^(# \w+ )?retention/ } split /\n/, $answer->{content}), '')
	  if $keep;
	return (\%value, \%about);
}

# What the view says, as a hash like that of a scrape, and the same for types and helps.
sub view
{
	my ($node, %more) = @_;
	my $rows = JSON::PP::decode_json($node->safe_psql('postgres', q{
		SELECT json_agg(m) FROM retention.metrics AS m},
		extra_params => ['-U', 'retention_exporter']));
	my (%value, %about);

	foreach my $row (@$rows)
	{
		$value{ series($row->{name}, %{ $row->{labels} }, %more) } = $row->{value};
		$about{ $row->{name} } = { HELP => $row->{help}, TYPE => $row->{type} };
	}
	return (\%value, \%about);
}

# Is the scrape what the view said between these two looks at it?  An age grows.
sub differences
{
	my ($scrape, $before, $after) = @_;
	my @differences;

	foreach my $series (sort keys %{ { %$scrape, %$before } })
	{
		my ($is, $from, $to) = map { $_->{$series} } $scrape, $before, $after;

		push @differences, "$series: " . ($is // 'missing') . ', and not ' . ($from // 'missing') . ' to ' . ($to // 'missing')
		  unless defined $is && defined $from
		  && $from - abs($from) * 1e-9 <= $is && $is <= $to + abs($to) * 1e-9;
	}
	return join "\n", @differences;
}

# postgres_exporter asks when it is asked.
sub postgres_exporter_agrees
{
	my ($node, $address, $name, $keep) = @_;
	my $server = $node->host . ':' . $node->port;
	my ($before, $about) = view($node, database => 'postgres', server => $server);
	my ($scrape, $scraped_about) = scrape($address, $keep);
	my ($after) = view($node, database => 'postgres', server => $server);

	is(differences($scrape, $before, $after), '', "$name: postgres_exporter has what the view has");
	is_deeply($scraped_about, $about, "$name: and says the same about it");
	return $scrape;
}

# sql_exporter asks by itself, so that it agrees after a while.
sub sql_exporter_agrees
{
	my ($node, $address, $name) = @_;
	my ($before) = view($node);
	my $text;

	for (my $attempts = 10 * $PostgreSQL::Test::Utils::timeout_default; $attempts > 0; $attempts--)
	{
		my $answer = $http->get("$address/metrics");
		my ($after) = view($node);
		my %value;

		while ($answer->{content} =~ /^sql_retention\{(.*)\} (\S+)$/mg)
		{
			my ($labels, $value) = ($1, $2);
			my %label = $labels =~ /(\w+)="([^"]*)"/g;
			my $metric = delete $label{name};

			is($label{database}, 'postgres', "$name: the database") if $label{database} ne 'postgres';
			delete @label{qw(col database driver host sql_job user)};
			$value{ series($metric, %label) } = $value;
		}
		$text = differences(\%value, $before, $after);
		last if $text eq '';
		usleep(100_000);
	}
	is($text, '', "$name: sql_exporter has what the view has");
	return;
}

# ---- The server: two tenants that have been waiting for long.
my $node = start_node('metrics');
my $dsn_dir = $node->host;
my $dsn_port = $node->port;

$node->safe_psql('postgres', prepare_runs()
	  . rows_of($t1, 300, newest => 50) . rows_of($t2, 300, newest => 50, first => 1001)
	  . policy($t1, 30, 10) . policy($t2, 30, 10)
	  . q{
	UPDATE execution_retention_policies SET updated_at = now() - interval '2000 hours';
	CREATE ROLE retention_exporter LOGIN IN ROLE pg_monitor;
	GRANT SELECT (tenant_id, started_at, created_at) ON executions TO retention_exporter;
	});

# ---- The exporters and Prometheus.

# What postgres_exporter collects by itself goes by other names in each of its versions.
sub other_collectors
{
	IPC::Run::run([ $program{'prometheus-postgres-exporter'}, '--help' ], '<', \undef, '>', \my $help, '2>&1');
	my @names = $help =~ /^\s+--(?:\[no-\])?collector\.(\w+)(?=\s)/mg;

	@names or die "no collectors in: $help";
	return map { "--no-collector.$_" } @names;
}

my $postgres_exporter = serve('prometheus-postgres-exporter', '/',
	command => [
		'--web.listen-address=ADDRESS', '--disable-default-metrics', '--disable-settings-metrics',
		other_collectors(),
		'--extend.query-path=' . configure('queries.yaml', 'cache_seconds: 300' => 'cache_seconds: 0') ],
	env => {
		DATA_SOURCE_NAME => "host=$dsn_dir port=$dsn_port user=retention_exporter dbname=postgres sslmode=disable" });
my $sql_exporter = serve('prometheus-sql-exporter', '/metrics',
	command => [
		'-web.listen-address=ADDRESS',
		'-config.file=' . configure('sql_exporter.yml',
			'interval: 1m' => 'interval: 1s',
			'postgres://retention_exporter@localhost/app?sslmode=disable' =>
			  "postgres://retention_exporter@/postgres?host=$dsn_dir&port=$dsn_port&sslmode=disable") ]);

configure('alerts.yml');
my $prometheus = serve('prometheus', '/-/ready',
	command => [
		'--web.listen-address=ADDRESS', "--storage.tsdb.path=$dir/tsdb",
		'--config.file=' . configure('prometheus.yml',
			'rule_files:' => "global: {scrape_interval: 2s, evaluation_interval: 1s}\nrule_files:",
			'localhost:9187' => $postgres_exporter =~ s{^http://}{}r,
			'localhost:9237' => $sql_exporter =~ s{^http://}{}r) ]);

# The answer of Prometheus to a query: [labels, value] of each series.
sub ask_prometheus
{
	my ($query) = @_;
	my $answer = $http->get("$prometheus/api/v1/query?" . $http->www_form_urlencode({ query => $query }));
	my $json = JSON::PP::decode_json($answer->{content});

	$json->{status} eq 'success' or die "$query: $answer->{content}";
	return map { [ $_->{metric}, $_->{value}[1] ] } @{ $json->{data}{result} };
}

# Both jobs come to say so, with labels of ours only.
sub prometheus_sees
{
	my ($query, $value, $name) = @_;
	my @seen;

	wait_until(sub {
			@seen = ask_prometheus($query);
			return 2 == grep { $_->[1] eq $value } @seen;
		}, "$name: Prometheus sees $query = $value twice");
	return @seen;
}

# ---- Before any run.
{
	my $scrape = postgres_exporter_agrees($node, $postgres_exporter, 'before');
	my %common = (database => 'postgres', server => "$dsn_dir:$dsn_port");

	is($scrape->{ series('retention_overdue_tenants', %common) }, 2, 'before: two tenants are overdue');
	cmp_ok($scrape->{ series('retention_overdue_age_seconds', %common) }, '>', 20 * 86400,
		'before: and by more than 20 days');
	is($scrape->{ series('retention_deleted_rows_total', %common) }, 0, 'before: nothing is deleted');
	is($scrape->{ series('retention_last_success_timestamp_seconds', %common) }, 0, 'before: there was no success');
	sql_exporter_agrees($node, $sql_exporter, 'before');

	my @seen = prometheus_sees('retention_overdue_tenants', 2, 'before');
	is_deeply([ map { join ' ', sort keys %{ $_->[0] } } sort { $a->[0]{job} cmp $b->[0]{job} } @seen ],
		[ '__name__ database instance job server', '__name__ database instance job' ],
		'before: under one name, without the labels of the exporter');
	is(scalar(ask_prometheus('{__name__=~"sql_retention.*"}')), 0, 'before: and no other');
	prometheus_sees('ALERTS{alertname="RetentionOverdue", alertstate="pending"}', 1, 'before');
}

# ---- In the middle of a run.
{
	my $holder = $node->background_psql('postgres');

	$holder->query_safe('SELECT pg_advisory_lock(4711)');
	mischief($node, 200 => 'wait');
	my $run = start_run($node, 'batch_size => 50');
	wait_until_stopped($run, 'running');
	my $scrape = postgres_exporter_agrees($node, $postgres_exporter, 'running');
	my %common = (database => 'postgres', server => "$dsn_dir:$dsn_port");

	is($scrape->{ series('retention_run_in_progress', %common) }, 1, 'running: one run');
	is($scrape->{ series('retention_deleted_rows_total', %common) }, 150, 'running: three batches are gone');
	sql_exporter_agrees($node, $sql_exporter, 'running');
	prometheus_sees('retention_run_in_progress', 1, 'running');
	release($holder);
	finish_run($run);
	$holder->quit;
}

# ---- After it.
{
	my ($ended) = $node->safe_psql('postgres', 'SELECT extract(epoch FROM finished_at) FROM retention.run_history');
	my $scrape = postgres_exporter_agrees($node, $postgres_exporter, 'after');
	my %common = (database => 'postgres', server => "$dsn_dir:$dsn_port");

	is($scrape->{ series('retention_deleted_rows_total', %common) }, 580, 'after: 580 rows are gone');
	is($scrape->{ series('retention_runs_total', %common, status => 'succeeded') }, 1, 'after: one run succeeded');
	is($scrape->{ series('retention_overdue_tenants', %common) }, 0, 'after: nobody is overdue');
	is($scrape->{ series('retention_overdue_age_seconds', %common) }, 0, 'after: nothing is');
	is($scrape->{ series('retention_run_in_progress', %common) }, 0, 'after: nothing runs');
	cmp_ok(abs($scrape->{ series('retention_last_success_timestamp_seconds', %common) } - $ended), '<', 0.001,
		'after: when it ended');
	sql_exporter_agrees($node, $sql_exporter, 'after');
	prometheus_sees('retention_deleted_rows_total', 580, 'after');
	prometheus_sees('sum by (job) (retention_runs_total)', 1, 'after');
}

# ---- Three runs that fail for one tenant, among others of which some are late.
{
	$node->safe_psql('postgres', rows_of($t1, 100, newest => 50, first => 5001)
		  . rows_of($t2, 100, newest => 50, first => 6001)
		  . join('', map { rows_of(tenant($_), 20, newest => 40, first => $_ * 10000) . policy(tenant($_), 30, 10) } 11 .. 13)
		  . q{UPDATE execution_retention_policies SET updated_at = now() - interval '2000 hours'});
	mischief($node, 6050 => 'raise', map { $_ * 10000 + 5 => 'raise' } 11 .. 13);
	run($node, '', name => "failing: run $_") foreach 1 .. 3;
	$node->safe_psql('postgres', q{UPDATE retention.run_history SET started_at = started_at - interval '300 hours',
		finished_at = finished_at - interval '300 hours'});
	my $example = "$PostgreSQL::Test::Utils::log_path/scrape.txt";
	my $scrape = postgres_exporter_agrees($node, $postgres_exporter, 'failing', $example);
	my %common = (database => 'postgres', server => "$dsn_dir:$dsn_port");

	is($scrape->{ series('retention_tenant_errors_total', %common) }, 12, 'failing: four tenants, three times');
	is($scrape->{ series('retention_failing_tenants', %common) }, 4, 'failing: four tenants');
	is($scrape->{ series('retention_failing_tenant_runs', %common, tenant => $t2, sqlstate => 'RT001') }, 3,
		'failing: by name, with the error');
	sql_exporter_agrees($node, $sql_exporter, 'failing');
	prometheus_sees(qq(ALERTS{alertname="RetentionTenantFails", alertstate="firing", tenant="$t2"}), 1, 'failing');

	# The example in the docs: the same lines but for the values and the tenants.
	my ($documented) = slurp_file("$root/docs/metrics.md") =~ /^```prometheus\n(.*?)^```/ms;
	my @shape = map {
		my $text = $_ // '';
		$text =~ s/^(\w+\{.*\}) \S+$/$1 N/mg;
		$text =~ s/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/T/g;
		$text
	} $documented, slurp_file($example);
	is($shape[0], $shape[1], 'docs/metrics.md shows the scrape of an exporter');
}

# ---- A role that may not look at the table.
{
	$node->safe_psql('postgres', 'REVOKE ALL (tenant_id, started_at, created_at) ON executions FROM retention_exporter');
	my ($scrape) = scrape($postgres_exporter);
	my %common = (database => 'postgres', server => "$dsn_dir:$dsn_port");

	is($scrape->{ series('retention_overdue_known', %common) }, 0, 'blind: it says so');
	is($scrape->{ series('retention_overdue_age_seconds', %common) }, 'NaN', 'blind: and no number that is wrong');
	is($scrape->{ series('retention_tenant_errors_total', %common) }, 12, 'blind: the rest is there');
	sql_exporter_agrees($node, $sql_exporter, 'blind');
	prometheus_sees('ALERTS{alertname="RetentionOverdueUnknown", alertstate="pending"}', 1, 'blind');
}

# ---- The rules.
{
	my $rules = JSON::PP::decode_json($http->get("$prometheus/api/v1/rules")->{content});
	my @rules = map { @{ $_->{rules} } } @{ $rules->{data}{groups} };

	cmp_ok(scalar(@rules), '>', 5, 'Prometheus has the rules');
	is(join(' ', map { $_->{name} } grep { $_->{health} ne 'ok' } @rules), '', 'and can evaluate all of them');
	foreach my $check ([ 'check', 'rules', 'alerts.yml' ], [ 'check', 'config', 'prometheus.yml' ],
		[ 'test', 'rules', 'alerts_test.yml' ])
	{
		my $ok = IPC::Run::run([ $program{promtool}, @$check[ 0, 1 ], "$root/monitoring/$check->[2]" ],
			'<', \undef, '>', \my $out, '2>&1');
		ok($ok, "promtool @$check") or diag $out;
	}
	# every alert is seen to fire in its test
	my $tests = slurp_file("$root/monitoring/alerts_test.yml");
	my @untested = grep { $tests !~ /alertname: $_\n\s+exp_alerts:/ } slurp_file("$root/monitoring/alerts.yml") =~ /alert: (\w+)/g;
	is("@untested", '', 'every alert has a test in which it fires');
}

END
{
	my $status = $?;

	$_->[1]->kill_kill(grace => 5) foreach @running;
	$? = $status;
}

$node->stop;
done_testing();
