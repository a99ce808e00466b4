# A caller by Net::SIP with the options of the check_sip that the appliance runs. It stands in where the sample of Net::SIP that is
# that check is not installed.
use strict;
use warnings;
use Getopt::Long qw(:config posix_default bundling);
use IO::Socket::INET;
use Net::SIP;
use Net::SIP::Util 'create_socket_to';

sub give_up {
    print STDERR "@_\n";
    exit 255;
}

my ($proxy, $registrar, @sounds, $name, $password);
my $rings = 30;
GetOptions(
    'P|proxy=s'     => \$proxy,
    'R|registrar=s' => \$registrar,
    'S|send=s'      => \@sounds,
    'T|timeout=s'   => \$rings,
    'username=s'    => \$name,
    'password=s'    => \$password,
) or exit 1;
my ($from, $to) = @ARGV;
exit 1 if !$to;
$registrar ||= $proxy;

# Without a proxy the host of FROM is our own.
my $socket;
if ($proxy) {
    $socket = create_socket_to($proxy);
} else {
    my ($host) = $from =~ /\@([\w.-]+)/ or give_up("no host in $from");
    $socket = IO::Socket::INET->new(Proto => 'udp', LocalAddr => $host, LocalPort => 5060);
}
$socket or give_up("no socket: $!");
my $agent = Net::SIP::Simple->new(
    from           => $from,
    outgoing_proxy => $proxy,
    legs           => [ Net::SIP::Leg->new(sock => $socket) ],
    $name ? (auth => [ $name, $password ]) : (),
);

if ($registrar && $registrar ne '-') {
    $agent->register(registrar => $registrar);
    give_up('not registered:', $agent->error) if $agent->error;
}

my ($is_said, $is_left, $is_alone);
my $call = $agent->invite(
    $to,
    init_media  => $agent->rtp('send_recv', shift @sounds),
    cb_rtp_done => \$is_said,
    recv_bye    => \$is_left,
    cb_noanswer => \$is_alone,
    ring_time   => $rings,
) or give_up('no call:', $agent->error);
give_up('no call:', $call->error) if $call->error;
$agent->loop(\$is_said, \$is_left, \$is_alone);
give_up('nobody answers') if $is_alone;

while (@sounds && !$is_left) {
    my $is_said_too;
    $call->reinvite(
        init_media  => $agent->rtp('send_recv', shift @sounds),
        cb_rtp_done => \$is_said_too,
        recv_bye    => \$is_left,
    );
    $agent->loop(\$is_said_too, \$is_left);
}

if (!$is_left) {
    my $is_over;
    $call->bye(cb_final => \$is_over);
    $agent->loop(\$is_over);
}
