# What Pikepole needs in one account and region: lifecycle hooks, events, their way to the directory, and the
# directory's permissions. deploy/cloudformation holds the same; deploy/check compares the two. docs/aws.md explains.

data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}
data "aws_region" "this" {}

locals {
  sqs     = var.mode == "sqs"
  lambda  = var.mode == "lambda"
  queues  = local.sqs ? var.queues : toset([])
  account = data.aws_caller_identity.this.account_id
  # "partition:service:region:account" of what this module makes.
  here = { for service in ["autoscaling", "lambda", "sqs"] : service =>
    "arn:${data.aws_partition.this.partition}:${service}:${data.aws_region.this.name}:${local.account}"
  }
}

# Hooks. CONTINUE and short times: when nobody completes them, scaling goes on.

resource "aws_autoscaling_lifecycle_hook" "launch" {
  for_each                = var.groups
  autoscaling_group_name  = each.value
  name                    = "${var.name}-launch"
  lifecycle_transition    = "autoscaling:EC2_INSTANCE_LAUNCHING"
  default_result          = "CONTINUE"
  heartbeat_timeout       = 150 # the directory gives up its probe after 120 s; 30 s for the way there and back
  notification_target_arn = aws_sns_topic.hooks.arn
  role_arn                = aws_iam_role.hooks.arn
  depends_on              = [aws_iam_role_policy.hooks]
}

resource "aws_autoscaling_lifecycle_hook" "terminate" {
  for_each                = var.groups
  autoscaling_group_name  = each.value
  name                    = "${var.name}-terminate"
  lifecycle_transition    = "autoscaling:EC2_INSTANCE_TERMINATING"
  default_result          = "CONTINUE"
  heartbeat_timeout       = 120 # the directory drains for 90 s at most; a spot notice gives no more than 120 s
  notification_target_arn = aws_sns_topic.hooks.arn
  role_arn                = aws_iam_role.hooks.arn
  depends_on              = [aws_iam_role_policy.hooks]
}

resource "aws_iam_role" "hooks" {
  name_prefix        = "${var.name}-hooks-"
  description        = "Lets Auto Scaling tell of lifecycle actions"
  assume_role_policy = data.aws_iam_policy_document.hooks_trust.json
}

data "aws_iam_policy_document" "hooks_trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["autoscaling.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:SourceAccount"
      values   = [local.account]
    }
  }
}

resource "aws_iam_role_policy" "hooks" {
  name   = "publish"
  role   = aws_iam_role.hooks.id
  policy = data.aws_iam_policy_document.hooks.json
}

data "aws_iam_policy_document" "hooks" {
  statement {
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.hooks.arn]
  }
}

resource "aws_sns_topic" "hooks" {
  name = "${var.name}-hooks"
}

resource "aws_sns_topic_policy" "hooks" {
  arn    = aws_sns_topic.hooks.arn
  policy = data.aws_iam_policy_document.topic.json
}

data "aws_iam_policy_document" "topic" {
  statement {
    actions   = ["sns:Publish"]
    resources = [aws_sns_topic.hooks.arn]
    principals {
      type        = "AWS"
      identifiers = [aws_iam_role.hooks.arn]
    }
  }
}

# What was not taken in five tries, or, in mode lambda, what the function could not deliver. For people.
resource "aws_sqs_queue" "dead_letters" {
  name                      = "${var.name}-dead-letters"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
}

# Mode sqs. Old hints are worth nothing: the directory asks AWS every 30 s anyway.

resource "aws_sqs_queue" "events" {
  for_each                   = local.queues
  name                       = "${var.name}-events-${each.value}"
  message_retention_seconds  = 300
  visibility_timeout_seconds = 30
  receive_wait_time_seconds  = 20
  sqs_managed_sse_enabled    = true
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letters.arn
    maxReceiveCount     = 5
  })
}

resource "aws_sqs_queue_policy" "events" {
  for_each  = local.queues
  queue_url = aws_sqs_queue.events[each.value].id
  policy    = data.aws_iam_policy_document.queue[each.value].json
}

data "aws_iam_policy_document" "queue" {
  for_each = local.queues
  statement {
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.events[each.value].arn]
    principals {
      type        = "Service"
      identifiers = ["sns.amazonaws.com"]
    }
    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values   = [aws_sns_topic.hooks.arn]
    }
  }
  statement {
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.events[each.value].arn]
    principals {
      type        = "Service"
      identifiers = ["events.amazonaws.com"]
    }
    condition {
      test     = "ArnEquals"
      variable = "aws:SourceArn"
      values = [
        aws_cloudwatch_event_rule.queue_group[each.value].arn,
        aws_cloudwatch_event_rule.queue_spot[each.value].arn,
      ]
    }
  }
}

resource "aws_sns_topic_subscription" "queue" {
  for_each             = local.queues
  topic_arn            = aws_sns_topic.hooks.arn
  protocol             = "sqs"
  endpoint             = aws_sqs_queue.events[each.value].arn
  raw_message_delivery = true
}

resource "aws_cloudwatch_event_rule" "queue_group" {
  for_each    = local.queues
  name        = "${var.name}-group-${each.value}"
  description = "An instance is in service, or gone"
  event_pattern = jsonencode({
    source        = ["aws.autoscaling"]
    "detail-type" = ["EC2 Instance Launch Successful", "EC2 Instance Terminate Successful"]
    detail        = { AutoScalingGroupName = var.groups }
  })
}

resource "aws_cloudwatch_event_target" "queue_group" {
  for_each  = local.queues
  rule      = aws_cloudwatch_event_rule.queue_group[each.value].name
  target_id = "queue"
  arn       = aws_sqs_queue.events[each.value].arn
}

resource "aws_cloudwatch_event_rule" "queue_spot" {
  for_each    = local.queues
  name        = "${var.name}-spot-${each.value}"
  description = "A spot instance will be taken back, or is at risk"
  event_pattern = jsonencode({
    source        = ["aws.ec2"]
    "detail-type" = ["EC2 Spot Instance Interruption Warning", "EC2 Instance Rebalance Recommendation"]
  })
}

resource "aws_cloudwatch_event_target" "queue_spot" {
  for_each  = local.queues
  rule      = aws_cloudwatch_event_rule.queue_spot[each.value].name
  target_id = "queue"
  arn       = aws_sqs_queue.events[each.value].arn
}

# Mode lambda.

resource "aws_lambda_function" "deliver" {
  count         = local.lambda ? 1 : 0
  function_name = var.name
  description   = "Posts events to Pikepole's directory"
  runtime       = "provided.al2023"
  handler       = "bootstrap"
  architectures = [var.architecture]
  memory_size   = 128
  timeout       = 10 # PIKEPOLE_TIMEOUT is 2.5 s; the rest is for a cold start and the secret
  role          = aws_iam_role.function[0].arn
  s3_bucket     = var.code_bucket
  s3_key        = var.code_key
  layers        = [var.secrets_extension_arn]

  vpc_config {
    subnet_ids         = var.subnet_ids
    security_group_ids = var.security_group_ids
  }

  environment {
    variables = merge(
      {
        PIKEPOLE_DIRECTORY    = join(",", var.directory_urls)
        PIKEPOLE_TOKEN_SECRET = var.token_secret_arn
        SECRETS_MANAGER_TTL   = "60" # a rotated token is noticed within a minute
      },
      var.directory_ca == "" ? {} : { PIKEPOLE_CA = var.directory_ca },
    )
  }

  lifecycle {
    precondition {
      condition = !contains([
        join(",", var.directory_urls), var.token_secret_arn, var.code_bucket, var.secrets_extension_arn,
      ], "")
      error_message = "Mode lambda needs directory_urls, token_secret_arn, code_bucket and secrets_extension_arn."
    }
  }

  depends_on = [
    aws_iam_role_policy.function,
    aws_iam_role_policy_attachment.function,
    aws_cloudwatch_log_group.function,
  ]
}

resource "aws_cloudwatch_log_group" "function" {
  count             = local.lambda ? 1 : 0
  name              = "/aws/lambda/${var.name}"
  retention_in_days = 30
}

resource "aws_iam_role" "function" {
  count              = local.lambda ? 1 : 0
  name_prefix        = "${var.name}-function-"
  description        = "Lets the function stand in the VPC and write its log"
  assume_role_policy = data.aws_iam_policy_document.function_trust.json
}

data "aws_iam_policy_document" "function_trust" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy_attachment" "function" {
  count      = local.lambda ? 1 : 0
  role       = aws_iam_role.function[0].name
  policy_arn = "arn:${data.aws_partition.this.partition}:iam::aws:policy/service-role/AWSLambdaVPCAccessExecutionRole"
}

resource "aws_iam_role_policy" "function" {
  count  = local.lambda ? 1 : 0
  name   = "deliver"
  role   = aws_iam_role.function[0].id
  policy = data.aws_iam_policy_document.function.json
}

data "aws_iam_policy_document" "function" {
  statement {
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [var.token_secret_arn]
  }
  statement {
    actions   = ["sqs:SendMessage"]
    resources = [aws_sqs_queue.dead_letters.arn]
  }
  # Lambda itself makes the network interfaces; the function's code must not.
  statement {
    effect    = "Deny"
    actions   = ["ec2:*NetworkInterface*", "ec2:*PrivateIpAddresses"]
    resources = ["*"]
    condition {
      test     = "ArnEquals"
      variable = "lambda:SourceFunctionArn"
      values   = ["${local.here.lambda}:function:${var.name}"]
    }
  }
}

resource "aws_lambda_function_event_invoke_config" "deliver" {
  count                        = local.lambda ? 1 : 0
  function_name                = aws_lambda_function.deliver[0].function_name
  qualifier                    = "$LATEST"
  maximum_event_age_in_seconds = 300
  maximum_retry_attempts       = 2
  destination_config {
    on_failure {
      destination = aws_sqs_queue.dead_letters.arn
    }
  }
}

resource "aws_sns_topic_subscription" "function" {
  count      = local.lambda ? 1 : 0
  topic_arn  = aws_sns_topic.hooks.arn
  protocol   = "lambda"
  endpoint   = aws_lambda_function.deliver[0].arn
  depends_on = [aws_lambda_permission.topic]
}

resource "aws_lambda_permission" "topic" {
  count         = local.lambda ? 1 : 0
  function_name = aws_lambda_function.deliver[0].function_name
  action        = "lambda:InvokeFunction"
  principal     = "sns.amazonaws.com"
  source_arn    = aws_sns_topic.hooks.arn
}

resource "aws_cloudwatch_event_rule" "group" {
  count       = local.lambda ? 1 : 0
  name        = "${var.name}-group"
  description = "An instance is in service, or gone"
  event_pattern = jsonencode({
    source        = ["aws.autoscaling"]
    "detail-type" = ["EC2 Instance Launch Successful", "EC2 Instance Terminate Successful"]
    detail        = { AutoScalingGroupName = var.groups }
  })
}

resource "aws_cloudwatch_event_target" "group" {
  count     = local.lambda ? 1 : 0
  rule      = aws_cloudwatch_event_rule.group[0].name
  target_id = "function"
  arn       = aws_lambda_function.deliver[0].arn
}

resource "aws_lambda_permission" "group" {
  count         = local.lambda ? 1 : 0
  function_name = aws_lambda_function.deliver[0].function_name
  action        = "lambda:InvokeFunction"
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.group[0].arn
}

resource "aws_cloudwatch_event_rule" "spot" {
  count       = local.lambda ? 1 : 0
  name        = "${var.name}-spot"
  description = "A spot instance will be taken back, or is at risk"
  event_pattern = jsonencode({
    source        = ["aws.ec2"]
    "detail-type" = ["EC2 Spot Instance Interruption Warning", "EC2 Instance Rebalance Recommendation"]
  })
}

resource "aws_cloudwatch_event_target" "spot" {
  count     = local.lambda ? 1 : 0
  rule      = aws_cloudwatch_event_rule.spot[0].name
  target_id = "function"
  arn       = aws_lambda_function.deliver[0].arn
}

resource "aws_lambda_permission" "spot" {
  count         = local.lambda ? 1 : 0
  function_name = aws_lambda_function.deliver[0].function_name
  action        = "lambda:InvokeFunction"
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.spot[0].arn
}

# For the role or user that the directory runs as. Attach it yourself.

resource "aws_iam_policy" "directory" {
  name_prefix = "${var.name}-directory-"
  description = "What the directory does in AWS"
  policy      = data.aws_iam_policy_document.directory.json
}

data "aws_iam_policy_document" "directory" {
  # AWS offers no resource for these.
  statement {
    actions = [
      "autoscaling:DescribeAutoScalingGroups",
      "autoscaling:DescribeLifecycleHooks",
      "ec2:DescribeInstances",
    ]
    resources = ["*"]
  }
  statement {
    actions = ["autoscaling:CompleteLifecycleAction", "autoscaling:RecordLifecycleActionHeartbeat"]
    resources = [
      for group in var.groups :
      "${local.here.autoscaling}:autoScalingGroup:*:autoScalingGroupName/${group}"
    ]
  }
  dynamic "statement" {
    for_each = local.sqs ? ["queues"] : []
    content {
      actions = [
        "sqs:ReceiveMessage",
        "sqs:DeleteMessage",
        "sqs:ChangeMessageVisibility",
        "sqs:GetQueueAttributes",
      ]
      resources = ["${local.here.sqs}:${var.name}-events-*"]
    }
  }
}
